"""How effects are said in a sentence."""

import math
from collections.abc import Sequence

from neftune.analysis.effects import Effect
from neftune.analysis.metrics import POINTS

NAMES = {
    "lc_win_rate": "length-controlled win rate against the baseline",
    "win_rate": "win rate against the baseline",
    "lc_win_rate_vs_reference": "length-controlled win rate against the references",
    "win_rate_vs_reference": "win rate against the references",
    "loss": "loss",
    "closed_correct": "share of closed questions answered right",
    "generalisation_gap": "gap between held-out and training loss",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "repetition_2": "share of repeated word pairs",
    "repetition_4": "share of repeated runs of four words",
    "verbatim": "share of answers reproduced word for word",
    "ended": "share of answers ended by the model",
}
"""Metrics whose name is not yet a phrase; the others read with spaces for underscores."""

PARTS = {"train": "training", "heldout": "held-out", "test": "test"}


def metric_phrase(metric: str) -> str:
    """The metric as a sentence calls it."""
    return NAMES.get(metric, metric.replace("_", " "))


def sentence_case(text: str) -> str:
    """The text with its first letter large, and the others as they are."""
    return text[:1].upper() + text[1:]


def number(value: float) -> str:
    """Three significant digits with its sign; no exponent between a thousandth and a million."""
    if value == 0 or not math.isfinite(value):
        return f"{abs(value):g}"
    if not 0.001 <= abs(value) < 1e6:
        return f"{value:+.1e}"
    size = abs(float(f"{value:.3g}"))
    return f"{value:+.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def unsigned(value: float) -> str:
    """As `number`, of a size."""
    return number(abs(value)).lstrip("+")


def interval_phrase(effect: Effect, confidence: float) -> str:
    """``+4.10 points, 95% interval [+1.20, +7.00]``."""
    unit = "points" if effect.unit == POINTS else effect.unit
    return (
        f"{number(effect.estimate)}{' ' + unit if unit else ''}, "
        f"{100 * confidence:g}% interval [{number(effect.low)}, {number(effect.high)}]"
    )


def place(effect: Effect) -> str:
    """`` in world=0``, or nothing where the study has one block."""
    return f" in {effect.block}" if effect.block else ""


def sample_phrase(effect: Effect) -> str:
    """``3 seeds, 60 examples``."""
    seeds = f"{effect.num_seeds} seed{'s' if effect.num_seeds != 1 else ''}"
    return f"{seeds}, {effect.num_examples} example{'s' if effect.num_examples != 1 else ''}"


def reference_phrase(effects: Sequence[Effect]) -> str:
    """The arm that others are compared with here: "the baseline", or the same arm without its noise by its name."""
    names = dict.fromkeys("the baseline" if effect.against == "baseline" else effect.against for effect in effects)
    return " and ".join(names) or "the baseline"
