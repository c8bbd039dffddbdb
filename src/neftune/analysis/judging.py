"""The rule's arithmetic: which arm is chosen, and on which side of it an interval lies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neftune.analysis.effects import Effect, find_effects
from neftune.analysis.metrics import gain_of
from neftune.analysis.power import detectable_effect
from neftune.analysis.statistics import critical_value
from neftune.config import Decision

CHOSEN_ON = "heldout"
JUDGED_ON = "test"

HarmState = Literal["worse", "ruled out", "open", "unseen"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A noisy arm and what it reached where arms are chosen.

    Attributes:
        arm: Its name.
        gain: Mean over blocks of its effect on the choosing metric, turned so that above 0 is better.
        by_block: The same block by block.
    """

    arm: str
    gain: float
    by_block: Mapping[str, float]


def rank_arms(
    effects: Sequence[Effect], arms: Sequence[str], *, blocks: Sequence[str], metric: str
) -> tuple[Candidate, ...]:
    """The arms that have the metric in every block of the held-out part, best first; ties keep the plan's order.

    An arm that is compared with another one than the baseline is credited with what that one gains over it.
    """
    known = {
        (effect.block, effect.arm): (gain_of(metric, effect.part, effect.estimate), effect.against)
        for effect in find_effects(effects, part=CHOSEN_ON, metric=metric)
    }
    found: list[Candidate] = []
    for arm in arms:
        by_block = {
            block: gain + known.get((block, against), (0.0, ""))[0]
            for (block, name), (gain, against) in known.items()
            if name == arm
        }
        if set(by_block) == set(blocks):
            found.append(Candidate(arm, math.fsum(by_block.values()) / len(by_block), by_block))
    return tuple(sorted(found, key=lambda candidate: -candidate.gain))


def better_side(effect: Effect) -> tuple[float, float]:
    """The interval turned so that above 0 is better: its pessimistic and its optimistic end."""
    ends = [gain_of(effect.metric, effect.part, end) for end in (effect.low, effect.high)]
    return min(ends), max(ends)


def is_harm(effect: Effect, rule: Decision) -> bool:
    """Whether the whole interval is worse than the rule tolerates."""
    return better_side(effect)[1] < -rule.harm_tolerance.get(effect.metric, 0.0)


def harm_state(effect: Effect, rule: Decision) -> HarmState:
    """What is known about a worsening beyond the tolerance.

    "worse": the whole interval lies beyond it. "ruled out": the whole interval lies within it or on the better side,
    which is a finding (non-inferiority). "open": neither. "unseen": all differences were equal and within it, so that
    there is no variance to judge by.
    """
    if is_harm(effect, rule):
        return "worse"
    if not effect.high > effect.low:
        return "unseen"
    return "ruled out" if better_side(effect)[0] >= -rule.harm_tolerance.get(effect.metric, 0.0) else "open"


def chosen_end(effect: Effect, rule: Decision, *, num_arms: int) -> float:
    """The pessimistic end of a chosen arm's interval, above 0 being better, widened for the choice.

    The arm was chosen on other examples but with the same runs. What seeds add to its score is luck that the choice
    has favoured, so their share of the variance is judged at the level divided by the number of arms.
    """
    level = 1 - rule.confidence
    wider = critical_value(effect.components, level, num_arms=num_arms) - critical_value(effect.components, level)
    return better_side(effect)[0] - wider * effect.standard_error if effect.components else better_side(effect)[0]


def detectable(effect: Effect, rule: Decision, *, num_arms: int) -> float:
    """The smallest true effect that the rule would find four times in five; NaN where no variance was seen."""
    if not effect.components or not effect.standard_error > 0:
        return math.nan
    return detectable_effect(
        effect.components, confidence=rule.confidence, min_effect=rule.min_effect, num_arms=num_arms
    )
