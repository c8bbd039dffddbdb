"""Several arms, one claim: Holm's adjusted p-values, and intervals that hold together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neftune.analysis.effects import Effect, find_effects
from neftune.analysis.metrics import gain_of
from neftune.analysis.statistics import critical_value
from neftune.errors import DataError


@dataclass(frozen=True, slots=True)
class ArmClaim:
    """Whether an arm is better in every block, with every arm of the study looked at.

    Attributes:
        arm: Its name.
        p_value: The largest over blocks; 1 where a block's estimate is not on the better side.
        adjusted: The same after Holm's correction for the number of arms.
    """

    arm: str
    p_value: float
    adjusted: float


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values, in the given order: below 5%, the arm's claim holds among all of them.

    Valid however the tests depend on each other, so also for arms that share a baseline. A NaN is no test: it stays.

    Raises:
        DataError: A p-value is outside [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    for name, value in p_values.items():
        if not (math.isnan(value) or 0 <= value <= 1):
            raise DataError(f"a p-value must be in [0, 1], got {value} for {name}.")
    tested = sorted((value, name) for name, value in p_values.items() if not math.isnan(value))
    adjusted, largest = dict(p_values), 0.0
    for rank, (value, name) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        adjusted[name] = largest
    return adjusted


def arm_claims(
    effects: Sequence[Effect], arms: Sequence[str], *, blocks: Sequence[str], part: str, metric: str
) -> tuple[ArmClaim, ...]:
    """Every arm's claim to be better in every block, adjusted for their number; arms without the metric are left out.

    An arm must hold in all blocks, so the largest p-value over blocks is a valid one and blocks need no correction.
    """
    by_arm: dict[str, list[Effect]] = {}
    for effect in find_effects(effects, part=part, metric=metric):
        by_arm.setdefault(effect.arm, []).append(effect)
    p_values: dict[str, float] = {}
    for arm in arms:
        found = by_arm.get(arm, [])
        if {effect.block for effect in found} == set(blocks):
            p_values[arm] = max(_p_better(effect) for effect in found)
    adjusted = holm(p_values)
    return tuple(ArmClaim(arm, p_values[arm], adjusted[arm]) for arm in p_values)


def simultaneous_interval(effect: Effect, *, confidence: float, num_arms: int) -> tuple[float, float]:
    """Ends of an interval that holds together with those of ``num_arms - 1`` others (Bonferroni), for figures.

    Raises:
        DataError: The effect has no interval, or there is no arm.
    """
    if num_arms < 1 or not effect.components:
        raise DataError("a simultaneous interval needs an arm and an effect with an interval, got none.")
    half = critical_value(effect.components, (1 - confidence) / num_arms) * effect.standard_error
    return effect.estimate - half, effect.estimate + half


def _p_better(effect: Effect) -> float:
    if math.isnan(effect.p_value):
        return math.nan
    return effect.p_value if gain_of(effect.metric, effect.part, effect.estimate) > 0 else 1.0
