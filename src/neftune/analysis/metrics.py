"""What each metric's number means: its unit, and which way is better."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from neftune.evaluation.text_metrics import text_metrics

Direction = Literal["higher", "lower", "neither"]

POINTS = "percentage points"


@dataclass(frozen=True, slots=True)
class Meaning:
    """How a metric's number is read.

    Attributes:
        unit: Unit of the score and of its differences.
        direction: Which way is better; "neither" where a change is only a change.
    """

    unit: str
    direction: Direction


MEANINGS: Mapping[str, Meaning] = MappingProxyType(
    {
        "loss": Meaning("nats/token", "lower"),
        "tokens": Meaning("tokens", "neither"),
        "ended": Meaning("fraction", "higher"),
        "quality": Meaning("facts", "higher"),
        "true_facts": Meaning("facts", "higher"),
        "false_facts": Meaning("facts", "lower"),
        "garbled": Meaning("sentences", "lower"),
        "closed_correct": Meaning("fraction", "higher"),
        "win_rate": Meaning(POINTS, "higher"),
        "lc_win_rate": Meaning(POINTS, "higher"),
        "win_rate_vs_reference": Meaning(POINTS, "higher"),
        "lc_win_rate_vs_reference": Meaning(POINTS, "higher"),
        "verbatim": Meaning("fraction", "neither"),
        "acc": Meaning("fraction", "higher"),
        "acc_norm": Meaning("fraction", "higher"),
        "mc2": Meaning("fraction", "higher"),
        "exact_match": Meaning("fraction", "higher"),
        "prompt_level_strict_acc": Meaning("fraction", "higher"),
        "prompt_level_loose_acc": Meaning("fraction", "higher"),
        "gold_loglikelihood": Meaning("nats", "higher"),
        "confidence": Meaning("fraction", "neither"),
        "margin": Meaning("nats", "neither"),
        "generalisation_gap": Meaning("nats/token", "lower"),
    }
)
"""Metrics that are not text metrics; those bring their own meaning."""

FROM_PREFERENCES = frozenset({"win_rate", "lc_win_rate"})
"""Metrics that a judge gives who compares an arm with the baseline, and says nothing of either alone."""

NEEDS_JUDGE = frozenset(
    {
        "quality",
        "true_facts",
        "false_facts",
        "garbled",
        "closed_correct",
        "win_rate",
        "lc_win_rate",
        "win_rate_vs_reference",
        "lc_win_rate_vs_reference",
    }
)
"""Metrics that exist only where answers were judged."""

NO_MEAN = frozenset({"choice"})
"""Scores that name something: their mean says nothing."""

_MEMORY = frozenset({"loss", "rouge_l", "bleu"})
_MEMORISED = frozenset({"verbatim"})


def meaning_of(metric: str, part: str) -> Meaning:
    """Unit and direction of a metric on a part; an unknown metric has no unit and no direction.

    On training examples a better score is better memory, which is neither good nor bad, and reproducing the
    answers word for word is worse.
    """
    known = MEANINGS.get(metric)
    if known is None:
        entry = text_metrics.get(metric)
        known = Meaning(entry.unit, entry.direction) if entry else Meaning("", "neither")
    if part != "train":
        return known
    if metric in _MEMORY:
        return Meaning(known.unit, "neither")
    return Meaning(known.unit, "lower") if metric in _MEMORISED else known


def gain_of(metric: str, part: str, difference: float) -> float:
    """The difference with the sign turned so that above 0 is better; NaN for a metric without a direction."""
    return difference * {"higher": 1.0, "lower": -1.0, "neither": float("nan")}[meaning_of(metric, part).direction]
