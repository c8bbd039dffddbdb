"""How alpha changes over training: each entry turns progress in [0, 1] into a factor of alpha.

To add one, write a function of progress and register it.
"""

import math
from collections.abc import Callable

from neftune.registry import Registry

Schedule = Callable[[float], float]
"""From progress in [0, 1] to a finite factor >= 0."""

schedules: Registry[Schedule] = Registry("schedule")

_WARMUP_SHARE = 0.1


@schedules.register("constant")
def constant(progress: float) -> float:
    """Alpha throughout: the paper's."""
    return 1.0


@schedules.register("linear")
def linear(progress: float) -> float:
    """From alpha at the start down to 0 at the end."""
    return 1.0 - progress


@schedules.register("cosine")
def cosine(progress: float) -> float:
    """From alpha down to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


@schedules.register("warmup")
def warmup(progress: float) -> float:
    """From 0 up to alpha over the first tenth of training, then constant."""
    return min(1.0, progress / _WARMUP_SHARE)
