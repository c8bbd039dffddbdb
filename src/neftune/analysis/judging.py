"""The rule's arithmetic: which arm is chosen, and on which side of it an interval lies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neftune.analysis.effects import Effect, find_effects
from neftune.analysis.metrics import gain_of
from neftune.config import Decision

CHOSEN_ON = "heldout"
JUDGED_ON = "test"
_POWER_80 = 0.8416  # Standard normal quantile of 0.8.


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
    """The arms that have the metric in every block of the held-out part, best first; ties keep the plan's order."""
    found: list[Candidate] = []
    for arm in arms:
        by_block = {
            effect.block: gain_of(metric, effect.part, effect.estimate)
            for effect in find_effects(effects, part=CHOSEN_ON, arm=arm, metric=metric)
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


def detectable(effect: Effect) -> float:
    """About the effect that a study of this size finds with 80% power, in the effect's unit."""
    half = max(effect.high - effect.estimate, effect.estimate - effect.low)
    return half + _POWER_80 * effect.standard_error
