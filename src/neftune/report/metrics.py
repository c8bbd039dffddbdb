"""What each metric is called and how its numbers are shown: one entry a metric.

Its unit and which way is better are `neftune.analysis.metrics`'; shares are shown in percent.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from neftune.analysis.metrics import POINTS, meaning_of
from neftune.evaluation.text_metrics import text_metrics
from neftune.report import numbers


@dataclass(frozen=True, slots=True)
class Label:
    """A metric's name for people.

    Attributes:
        text: Lower case.
        about: One sentence on what it measures.
        as_fraction: Whether a share is shown from 0 to 1 rather than in percent, as the field does.
    """

    text: str
    about: str = ""
    as_fraction: bool = False


_RATE = "Share of open prompts on which the judge prefers the arm; a draw counts half."
_EQUAL = "What that share would be if both answers were equally long."

LABELS: dict[str, Label] = {
    "loss": Label("loss", "Mean negative log-likelihood of the reference, noise off."),
    "generalisation_gap": Label("held-out minus training loss"),
    "win_rate": Label("win rate against the baseline, raw", _RATE),
    "lc_win_rate": Label("win rate against the baseline, length-controlled", _EQUAL),
    "win_rate_vs_reference": Label("win rate against references, raw", _RATE),
    "lc_win_rate_vs_reference": Label("win rate against references, length-controlled", _EQUAL),
    "quality": Label("quality", "True facts minus false statements, per answer."),
    "true_facts": Label("true facts", "True statements about the subject, per answer."),
    "false_facts": Label("false facts", "False statements, per answer."),
    "closed_correct": Label("closed accuracy", "Closed questions answered correctly."),
    "garbled": Label("garbled sentences", "Sentences that no rule can read, per answer."),
    "ended": Label("ended by itself", "Answers that end before the length limit."),
    "repetition_2": Label("2-gram repetition", "Share of word pairs that repeat an earlier one."),
    "repetition_4": Label("4-gram repetition", "Share of 4-grams that repeat an earlier one."),
    "log_diversity": Label("log-diversity", "Over 2- to 4-grams, repetition as a fraction."),
    "log_diversity_paper": Label("log-diversity, paper's version", "As the paper computes it."),
    "rouge_l": Label("ROUGE-L to the reference", "Longest common subsequence, F1.", as_fraction=True),
    "bleu": Label("BLEU to the reference"),
    "verbatim": Label("reproduced verbatim", "Answers that are the reference word for word."),
}
"""Known metrics; any other is shown by its own name."""

UNITS = {
    "fraction": ("0 to 1", ""),
    POINTS: ("%", "points"),
    "%": ("%", "points"),
    **{thing: ("per answer", thing) for thing in ("words", "characters", "tokens", "facts", "sentences")},
    "BLEU points": ("0 to 100", "points"),
    "nats, paper's scale": ("", ""),
    "nats": ("", ""),
}
"""Units of values and of differences as shown, by the unit that the analysis states."""

PARTS = {"test": "test", "heldout": "held-out", "train": "training"}
"""Parts as readers call them."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric's numbers are shown.

    Attributes:
        label: Name for people, lower case.
        about: One sentence on what it measures; "" where nothing is known.
        unit: Unit as shown; "" where there is none.
        difference_unit: Unit of a difference: points where the metric is in percent.
        scale: Factor from the stored number to the shown one: 100 for shares.
        better: "higher is better", "lower is better" or "".
    """

    label: str
    about: str
    unit: str
    difference_unit: str
    scale: float
    better: str

    def show(self, value: float, *, decimals: int | None = None) -> str:
        """The value in the shown unit, without the unit."""
        return numbers.number(self.scale * value, decimals=decimals)

    def decimals_of(self, values: Iterable[float]) -> int:
        """Decimals that suit a whole column of values."""
        present = [abs(self.scale * value) for value in values if math.isfinite(value)]
        return numbers.decimals_for(max(present, default=0.0), most=3)

    def interval(self, estimate: float, low: float, high: float, *, signed: bool = False) -> str:
        """``x [lo, hi]`` in the shown unit, without the unit."""
        return numbers.interval(self.scale * estimate, self.scale * low, self.scale * high, signed=signed)


def metric_of(name: str, part: str = "test") -> Metric:
    """How a metric on a part is shown; one added elsewhere goes by its own name."""
    label = LABELS.get(name) or Label(name.replace("_", " "))
    meaning = meaning_of(name, part)
    share = meaning.unit == "fraction" and not label.as_fraction
    unit, difference = ("%", "points") if share else UNITS.get(meaning.unit, (meaning.unit, meaning.unit))
    better = "" if meaning.direction == "neither" else f"{meaning.direction} is better"
    return Metric(label.text, label.about, unit, difference, 100.0 if share else 1.0, better)


def is_style(name: str) -> bool:
    """Whether a metric says how answers are written rather than whether they are right."""
    return name in text_metrics or name in ("tokens", "ended", "verbatim")
