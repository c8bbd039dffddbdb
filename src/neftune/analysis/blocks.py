"""One effect over several blocks (worlds, models, data sets), as a sample of such blocks.

The blocks' estimates are one number each, independent of each other, and their spread already holds everything: blocks,
seeds and examples. So Student's t over them, with blocks - 1 degrees of freedom, is honest however few there are; it is
wide because a few blocks say little about another one. Below three it would be endless and is not given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neftune.analysis.effects import Effect
from neftune.analysis.metrics import Direction
from neftune.analysis.statistics import paired_interval

MIN_BLOCKS = 3


@dataclass(frozen=True, slots=True)
class PooledEffect:
    """An arm's mean effect over blocks, with an interval for further blocks.

    Attributes:
        part, arm, metric: What it is the effect of, on what.
        blocks: The blocks it is the unweighted mean of.
        estimate: In the metric's unit.
        low, high: Ends of the t interval over blocks.
        sd_blocks: Standard deviation of the blocks' estimates.
        p_value: Two-sided, for a mean effect of zero.
        unit, direction: Of the metric.
    """

    part: str
    arm: str
    metric: str
    blocks: tuple[str, ...]
    estimate: float
    low: float
    high: float
    sd_blocks: float
    p_value: float
    unit: str
    direction: Direction


def pooled_effects(effects: Sequence[Effect], *, confidence: float = 0.95) -> tuple[PooledEffect, ...]:
    """The mean over blocks of every arm, part and metric that at least three blocks have.

    Blocks count the same whatever their size: the question is about blocks. They must be independent: worlds, models
    or data sets that share nothing. Blocks that are variations of one another are too alike: the interval is narrow.
    """
    found: dict[tuple[str, str, str], list[Effect]] = {}
    for effect in effects:
        found.setdefault((effect.part, effect.arm, effect.metric), []).append(effect)
    return tuple(_pooled(group, confidence) for group in found.values() if len(group) >= MIN_BLOCKS)


def _pooled(group: Sequence[Effect], confidence: float) -> PooledEffect:
    estimates = np.array([effect.estimate for effect in group])
    interval = paired_interval(estimates[:, None], confidence=confidence)
    first = group[0]
    return PooledEffect(
        part=first.part,
        arm=first.arm,
        metric=first.metric,
        blocks=tuple(effect.block for effect in group),
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        sd_blocks=float(estimates.std(ddof=1)),
        p_value=interval.p_value,
        unit=first.unit,
        direction=first.direction,
    )
