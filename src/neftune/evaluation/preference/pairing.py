"""Which two answers a judge compares, and which it sees first."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neftune.evaluation.outputs import Output, Outputs, join


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt.

    Attributes:
        baseline: The baseline's answer, output_1 of the annotation.
        model: The model's answer, output_2.
        is_swapped: Whether the judge sees the model's answer first.
    """

    baseline: Output
    model: Output
    is_swapped: bool

    @property
    def is_same(self) -> bool:
        """Whether both answers are the same text: a draw that nobody is asked about, as in AlpacaEval."""
        return self.baseline.text == self.model.text

    def shown(self) -> tuple[str, str]:
        """The answers in the order in which the judge sees them."""
        first, second = (self.model, self.baseline) if self.is_swapped else (self.baseline, self.model)
        return first.text, second.text

    def preference(self, as_shown: float | None) -> float | None:
        """A preference between the answers as shown, as one between baseline (1) and model (2)."""
        return as_shown if as_shown is None or not self.is_swapped else 3 - as_shown


def pair_outputs(baseline: Outputs, model: Outputs, *, seed: int = 0) -> tuple[Pair, ...]:
    """Every prompt's pair, in the baseline's order.

    Raises:
        DataError: The two sides do not join, see `neftune.evaluation.outputs.join`.
    """
    return tuple(Pair(a, b, is_swapped(a.instruction, seed)) for a, b in join(baseline, model))


def is_swapped(instruction: str, seed: int) -> bool:
    """Whether the second answer is shown first: a coin of the instruction and the seed alone.

    With seed 0 it is AlpacaEval's own coin, so a prompt's sides lie as they did in the published judgements.

    Source: tatsu-lab/alpaca_eval, processors.py, RandomSwitchTwoColumnsProcessor.
    """
    # As bytes, which seed as their text does, since a broken file's lone surrogate has no UTF-8.
    text = f"is_switched_outputs{instruction}{seed}".encode("utf-8", "surrogatepass")
    return random.Random(text).choices([False, True])[0]


def annotation(
    pair: Pair, names: tuple[str, str], annotator: str, verdict: Mapping[str, Any], id_field: str | None
) -> dict[str, Any]:
    """A row in AlpacaEval's annotations format.

    Args:
        pair: What was compared.
        names: Of baseline and model.
        annotator: The judge's name.
        verdict: "preference", "raw_completion", and what else is known of it.
        id_field: The field that holds the pair's id; None where it has none.
    """
    baseline, model = pair.baseline, pair.model
    row: dict[str, Any] = {} if id_field is None else {id_field: baseline.fields[id_field]}
    row |= {name: baseline.fields[name] for name in ("dataset",) if name in baseline.fields}
    return row | {
        "instruction": baseline.prompt,
        "output_1": baseline.text,
        "generator_1": names[0],
        "output_2": model.text,
        "generator_2": names[1],
        "len_1": len(baseline.text),
        "len_2": len(model.text),
        "annotator": annotator,
        **verdict,
        "is_swapped": pair.is_swapped,
    }
