"""Two runs, or two files of outputs, prompt by prompt.

Two runs are one seed of each: intervals are over prompts and say nothing about another training run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from neftune.analysis.effects import Effect, pairing_effects
from neftune.analysis.memorization import VERBATIM
from neftune.analysis.metrics import Direction
from neftune.analysis.pairing import Pairing, shared_examples
from neftune.analysis.wording import number
from neftune.errors import DataError
from neftune.evaluation.text_metrics import text_metrics
from neftune.records import Answer, RunRecord, Scores, content_hash

OUTPUTS = "outputs"
_NEED_REFERENCE = frozenset({"rouge_l", "bleu"})


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One metric on one part: two means and their paired difference.

    Attributes:
        part, metric: What is compared; the part of two output files is "outputs".
        a, b: Means over the examples that both have.
        difference: b - a, with the ends of its interval.
        low, high: Ends of the interval, over prompts only.
        num_examples, num_dropped: Examples used and left out.
        unit, direction: Of the metric.
    """

    part: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    num_examples: int
    num_dropped: int
    unit: str
    direction: Direction


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from A to B.

    Attributes:
        rows: A row per part and metric.
        notes: What the reader has to know: settings that differ, examples left out, what intervals do not say.
        confidence: Of every interval.
    """

    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...]
    confidence: float

    def table(self) -> str:
        """The rows as aligned plain text, and the notes below."""
        head = ("part", "metric", "A", "B", "B - A", f"{100 * self.confidence:g}% interval", "n", "unit")
        cells = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        lines = ["  ".join(_aligned(cell, widths[i], i) for i, cell in enumerate(row)).rstrip() for row in cells]
        return "\n".join([*lines, "", *self.notes])


def compare_runs(a: RunRecord, b: RunRecord, *, confidence: float = 0.95) -> Comparison:
    """What changed from one evaluated run to another, on every part that both answered.

    Raises:
        DataError: The runs share no part, or no example on a part.
    """
    pairing = Pairing("", "B", False, (0,), (a,), (b,))
    parts = pairing.parts()
    if not parts:
        raise DataError(
            "runs that are compared must have been evaluated on the same parts, got "
            f"{', '.join(a.scores) or 'none'} and {', '.join(b.scores) or 'none'}. Run `neftune evaluate` on both."
        )
    notes = [_settings_note(a, b)]
    for part in parts:
        examples = shared_examples((a, b), part)
        if examples.num_unmatched:
            notes.append(f"{examples.num_unmatched} examples of the {part} part are in one run only and left out.")
    notes.append("Two runs are one seed of each: the intervals are over prompts, not over training runs.")
    rows = tuple(_row(effect) for effect in pairing_effects(pairing, confidence=confidence))
    return Comparison(rows, tuple(note for note in notes if note), confidence)


def compare_outputs(
    rows_a: Sequence[Mapping[str, Any]], rows_b: Sequence[Mapping[str, Any]], *, confidence: float = 0.95
) -> Comparison:
    """What changed from one file of outputs to another, joined by instruction (and input, where there is one).

    Args:
        rows_a: {"instruction", "output"} each, AlpacaEval's format; optional: "input", "reference" (for ROUGE-L and
            BLEU) and "quality" (a judge's number, for win rates), each used where every row of both files has it.
        rows_b: The same for B.
        confidence: Of the intervals.

    Raises:
        DataError: Fewer than two rows, a row without instruction or output, an instruction twice, or files that
            answer different instructions.
    """
    by_prompt_a, by_prompt_b = _by_prompt(rows_a, "A"), _by_prompt(rows_b, "B")
    _check_joined(by_prompt_a, by_prompt_b)
    rows = [*by_prompt_a.values(), *by_prompt_b.values()]
    has_reference = all(isinstance(row.get("reference"), str) for row in rows)
    has_quality = all(isinstance(row.get("quality"), (int, float)) for row in rows)
    runs = [
        _as_run({prompt: side[prompt] for prompt in by_prompt_a}, references=has_reference, quality=has_quality)
        for side in (by_prompt_a, by_prompt_b)
    ]
    pairing = Pairing("", "B", False, (0,), (runs[0],), (runs[1],))
    made = tuple(
        _row(effect)
        for effect in pairing_effects(pairing, confidence=confidence)
        if has_reference or effect.metric != VERBATIM
    )
    notes = ["The intervals are over prompts: they say nothing about another training run."]
    if not has_quality:
        notes.append('No win rate: give every row of both files a judge\'s "quality" for one.')
    return Comparison(made, tuple(notes), confidence)


def _checked(row: object, where: str) -> dict[str, Any]:
    fields = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
    absent = [name for name in ("instruction", "output") if not isinstance(fields.get(name), str)]
    if absent:
        raise DataError(
            f"an output row must have the texts instruction and output, got none for {' and '.join(absent)} in {where}."
        )
    return fields


def _by_prompt(rows: Sequence[Mapping[str, Any]], side: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for index, row in enumerate(rows, start=1):
        checked = _checked(dict(row), f"{side}, row {index}")
        extra = checked.get("input")
        prompt = f"{checked['instruction']}\n{extra}" if isinstance(extra, str) and extra else checked["instruction"]
        if prompt in found:
            raise DataError(
                f"each instruction must be answered once, got a second answer in {side}, row {index}, to "
                f"{_short(prompt)}. Keep one of them."
            )
        found[prompt] = checked
    return found


def _check_joined(a: Mapping[str, object], b: Mapping[str, object]) -> None:
    if min(len(a), len(b)) < 2:
        raise DataError(f"a comparison needs at least two instructions in each file, got {len(a)} and {len(b)}.")
    only_a, only_b = [prompt for prompt in a if prompt not in b], [prompt for prompt in b if prompt not in a]
    if only_a or only_b:
        told = [
            f"{len(lacking)} only in {side} (the first: {_short(lacking[0])})"
            for side, lacking in (("A", only_a), ("B", only_b))
            if lacking
        ]
        raise DataError(
            f"both files must answer the same instructions, got {len(a) - len(only_a)} in common and "
            f"{', '.join(told)}. Generate the missing answers, or remove these rows."
        )


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else f"{prompt[:57]}...")


def _as_run(rows: Mapping[str, Mapping[str, Any]], *, references: bool, quality: bool) -> RunRecord:
    """Outputs as a run that was scored on one part."""
    answers = tuple(
        Answer(content_hash(prompt), prompt, row["output"], row["reference"] if references else "", 0, True)
        for prompt, row in rows.items()
    )
    values = {
        name: tuple(metric(answer.text, answer.reference) for answer in answers)
        for name, metric in text_metrics.items()
        if references or name not in _NEED_REFERENCE
    }
    if quality:
        values["quality"] = tuple(float(row["quality"]) for row in rows.values())
    return RunRecord(
        run_id="",
        config={},
        history=(),
        noise=None,
        alpha=0.0,
        counts={},
        answers={OUTPUTS: answers},
        scores={OUTPUTS: Scores(tuple(answer.example_id for answer in answers), values)},
        versions={},
        seconds={},
        data_fingerprint="",
    )


def _settings_note(a: RunRecord, b: RunRecord) -> str:
    ours, theirs = _flat(a.config), _flat(b.config)
    told = [
        f"{knob} {ours.get(knob)} -> {theirs.get(knob)}"
        for knob in dict.fromkeys((*ours, *theirs))
        if ours.get(knob) != theirs.get(knob)
    ]
    return f"Settings that differ (A -> B): {', '.join(told)}." if told else "Both runs have the same settings."


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _row(effect: Effect) -> ComparisonRow:
    return ComparisonRow(
        part=effect.part,
        metric=effect.metric,
        a=effect.baseline_mean,
        b=effect.arm_mean,
        difference=effect.estimate,
        low=effect.low,
        high=effect.high,
        num_examples=effect.num_examples,
        num_dropped=effect.num_dropped,
        unit=effect.unit,
        direction=effect.direction,
    )


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    return (
        row.part,
        row.metric,
        number(row.a).lstrip("+"),
        number(row.b).lstrip("+"),
        number(row.difference),
        f"[{number(row.low)}, {number(row.high)}]",
        str(row.num_examples),
        row.unit,
    )


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 1, 7) else cell.rjust(width)
