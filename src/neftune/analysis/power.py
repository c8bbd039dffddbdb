"""What a study of a size can see: power, the smallest effect it finds, and how many seeds would settle a question.

Everything rests on variances that were estimated, most often between three to ten seeds, and is as rough as they are: a
standard deviation between three seeds is known to a factor of two at best. Plan with the larger of what you have seen.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from neftune.analysis.statistics import Component, FloatArray, student_quantile
from neftune.errors import DataError

POWER = 0.8
_DRAWS = 20_000


def power_of(
    effect: float,
    components: Sequence[Component],
    *,
    confidence: float = 0.95,
    min_effect: float = 0.0,
    num_arms: int = 1,
) -> float:
    """The chance that the interval lies wholly beyond ``min_effect`` on the effect's side.

    Args:
        effect: The true effect, in the metric's unit; its sign does not matter.
        components: Of the variance of the mean, as of an `Interval`; scale them by `with_size` for another design.
        confidence: Of the interval.
        min_effect: What the interval must clear.
        num_arms: Arms from which the one judged is chosen with the same seeds, as of `critical_value`.
    """
    return float((_shortfalls(components, confidence, num_arms) < abs(effect) - min_effect).mean())


def detectable_effect(
    components: Sequence[Component],
    *,
    confidence: float = 0.95,
    power: float = POWER,
    min_effect: float = 0.0,
    num_arms: int = 1,
) -> float:
    """The smallest true effect that is found with this power: the minimum detectable effect.

    Raises:
        DataError: There is no variance estimate, or power is not in (0, 1).
    """
    if not 0 < power < 1:
        raise DataError(f"power must be in (0, 1), got {power}. Use 0.8.")
    return min_effect + max(0.0, float(np.quantile(_shortfalls(components, confidence, num_arms), power)))


def seeds_needed(
    effect: float,
    components: Sequence[Component],
    *,
    confidence: float = 0.95,
    power: float = POWER,
    min_effect: float = 0.0,
    num_arms: int = 1,
    most: int = 200,
) -> int | None:
    """The fewest seeds with which this effect is found with this power; None if ``most`` are too few.

    More seeds do nothing about the variance of examples: where that alone hides the effect, the answer is None.
    """

    def finds(seeds: int) -> bool:
        scaled = with_size(components, seeds=seeds)
        least = detectable_effect(scaled, confidence=confidence, power=power, min_effect=min_effect, num_arms=num_arms)
        return least <= abs(effect)

    few, many = 1, most
    if not finds(many):
        return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if finds(middle) else (middle, many)
    return many


def with_size(
    components: Sequence[Component], *, seeds: int | None = None, examples: int | None = None
) -> tuple[Component, ...]:
    """The components that the same variances would give with other numbers of seeds and examples.

    Raises:
        DataError: The components are not those of a table of at least two seeds and two examples.
    """
    if len(components) != 2:
        raise DataError(
            "planning needs the two components of seeds and examples, got an effect of one seed or example."
        )
    between, beyond = _floored(components)
    old = between.freedom + 1, beyond.freedom + 1
    new = seeds or old[0], examples or old[1]
    rest = beyond.subtracted * old[0] * old[1] / (new[0] * new[1])
    of_seeds = (between.variance - beyond.subtracted) * old[0] / new[0]
    return (
        Component(of_seeds + rest, new[0] - 1),
        Component(beyond.variance * old[1] / new[1], new[1] - 1, rest),
    )


def _floored(components: Sequence[Component]) -> tuple[Component, Component]:
    # The variance between seeds holds the rest's: an estimate below it is luck, frequent with few seeds.
    between, beyond = components
    return Component(max(between.variance, beyond.subtracted), between.freedom), beyond


def _shortfalls(components: Sequence[Component], confidence: float, num_arms: int) -> FloatArray:
    """Simulated (half-width - luck): an effect above it is found. The same draws at every call."""
    if not components or any(part.freedom < 1 for part in components):
        raise DataError("power needs an estimate of variance, got an effect of one seed and one example.")
    parts = _floored(components) if len(components) == 2 else tuple(components)
    luck, of_rest, drawn = _draws(tuple(part.freedom for part in parts))
    total, weighted = np.zeros(_DRAWS), np.zeros(_DRAWS)
    for index, (part, ratio) in enumerate(zip(parts, drawn, strict=True)):
        level = (1 - confidence) / (num_arms if index == 0 else 1)
        seen = (part.variance + part.subtracted) * ratio
        if part.subtracted:
            seen = np.maximum(0.0, seen - part.subtracted * of_rest)
        total += seen
        weighted += seen * student_quantile(part.freedom, 1 - level / 2)
    error = math.sqrt(sum(part.variance for part in parts))
    return weighted / np.sqrt(np.where(total > 0, total, 1.0)) - error * luck


@lru_cache(maxsize=64)
def _draws(freedoms: tuple[int, ...]) -> tuple[FloatArray, FloatArray, tuple[FloatArray, ...]]:
    """Standard normal luck; mean squares over their expectation, of the rest and of each component."""
    rng = np.random.default_rng(0)
    luck = rng.standard_normal(_DRAWS)
    ratios = [rng.chisquare(freedom, _DRAWS) / freedom for freedom in (math.prod(freedoms), *freedoms)]
    return luck, ratios[0], tuple(ratios[1:])
