"""The tables that an export writes: their columns, and their rows from records (docs/data.md)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from neftune.analysis.effects import Effect
from neftune.records import VARIANT_MARK, Failure, PlannedRun, RunRecord

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: Its name.
        kind: "string", "int64", "float64", "bool", "list<int64>", or "map<string, ...>" of the first three.
        meaning: What it holds, with its unit.
    """

    name: str
    kind: str
    meaning: str

    def arrow(self, pa: Any) -> Any:
        """Its Arrow type, made by the pyarrow module given."""
        plain = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
        if self.kind in plain:
            return plain[self.kind]
        if self.kind == "list<int64>":
            return pa.list_(pa.int64())
        return pa.map_(pa.string(), plain[self.kind.removeprefix("map<string, ").removesuffix(">")])


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


_RUN_ID = ("run_id", "string", "the run; joins all tables of runs")
_PART = ("part", "string", "train, heldout, test, or a benchmark's name")
_VARIANT = ("variant", "string", 'the control variant that was asked, "" for none')
_EXAMPLE = ("example_id", "string", "the example: hash of its content")

TABLES: Mapping[str, tuple[Column, ...]] = {
    "runs": _columns(
        ("study", "string", "the study that plans the run; null where none does (--all)"),
        _RUN_ID,
        ("stage", "string", "tune, main or confirm"),
        ("arm", "string", "the arm's name"),
        ("block", "string", 'where arms are compared, "" for a study of one block'),
        ("seed", "int64", "the seed that pairs arms"),
        ("is_baseline", "bool", "whether the others are compared with it"),
        ("is_control", "bool", "whether it explains and cannot win"),
        ("is_noisy", "bool", "whether it has noise"),
        ("against", "string", "the arm it is compared with"),
        ("after", "string", "the run whose result it needs, or null"),
        ("state", "string", "done, failed or not run"),
        ("error", "string", "kind of the error, null unless failed"),
        ("message", "string", "the error's message, null unless failed"),
        ("alpha", "float64", "the alpha that was applied; this and the following are null unless done"),
        ("noise_alpha_mean", "float64", "realised alpha, mean over documents; null without noise"),
        ("noise_alpha_min", "float64", "the least"),
        ("noise_alpha_max", "float64", "the largest"),
        ("noise_to_embedding", "float64", "RMS(noise) / RMS(embedding)"),
        ("noise_documents", "int64", "documents that got noise"),
        ("noise_tokens", "int64", "tokens that got noise"),
        ("data_fingerprint", "string", "hash of the examples"),
        ("counts", "map<string, int64>", "examples read and dropped, steps, tokens, parameters"),
        ("seconds", "map<string, float64>", "wall-clock seconds by stage"),
        ("versions", "map<string, string>", "libraries, code, machine"),
    ),
    "settings": _columns(
        _RUN_ID,
        ("knob", "string", "dotted name, such as train.learning_rate"),
        ("value", "string", "its value as JSON"),
        ("number", "float64", "the same where it is a number, else null"),
    ),
    "scores": _columns(
        _RUN_ID,
        _PART,
        _VARIANT,
        _EXAMPLE,
        ("metric", "string", "the score's name"),
        ("value", "float64", "NaN where it is undefined for the example"),
    ),
    "answers": _columns(
        _RUN_ID,
        _PART,
        _VARIANT,
        _EXAMPLE,
        ("prompt", "string", "as the model read it"),
        ("text", "string", "the response"),
        ("reference", "string", "the reference response"),
        ("num_tokens", "int64", "tokens generated, end of sequence not counted"),
        ("ended", "bool", "whether the model stopped by itself"),
    ),
    "history": _columns(
        _RUN_ID,
        ("step", "int64", "optimiser steps done"),
        ("epoch", "float64", "passes over the training data done"),
        ("name", "string", "loss (noise on), clean_train_loss, clean_heldout_loss, learning_rate, grad_norm"),
        ("value", "float64", "losses in nats per token"),
    ),
    "tags": _columns(_EXAMPLE, ("tag", "string", "category, person, half, ..."), ("value", "string", "its value")),
    "effects": _columns(
        ("study", "string", "the study"),
        ("stage", "string", "tune, main or confirm"),
        ("block", "string", "the block"),
        _PART,
        ("arm", "string", "the arm"),
        ("against", "string", "the arm it is compared with"),
        ("metric", "string", "the metric"),
        ("baseline_mean", "float64", "mean over examples and seeds used, in the metric's unit"),
        ("arm_mean", "float64", "the arm's"),
        ("estimate", "float64", "arm_mean - baseline_mean"),
        ("low", "float64", "lower end of the interval"),
        ("high", "float64", "upper end"),
        ("standard_error", "float64", "of the estimate"),
        ("p_value", "float64", "two-sided, for an effect of zero"),
        ("bootstrap_low", "float64", "paired percentile bootstrap, or null"),
        ("bootstrap_high", "float64", "its upper end"),
        ("seeds", "list<int64>", "seeds that are paired"),
        ("num_examples", "int64", "examples used"),
        ("num_dropped", "int64", "examples left out"),
        ("unit", "string", "of means and estimate"),
        ("direction", "string", "which way is better"),
        ("method", "string", "how the interval was made"),
        ("is_control", "bool", "whether the arm is a control"),
    ),
}
"""Every table by name, in the order of its columns."""


def run_row(study: str | None, run: PlannedRun, record: RunRecord | None, failure: Failure | None) -> Row:
    """A planned run and what is known of it."""
    state = "done" if record else "failed" if failure else "not run"
    planned = (run.stage, run.arm, run.block, run.seed, run.is_baseline, run.is_control, run.is_noisy, run.against)
    error = (failure.error, failure.message) if failure and not record else (None, None)
    return (study, run.run_id, *planned, run.after, state, *error, *_measured(record))


def stray_row(record: RunRecord) -> Row:
    """A finished run that no study plans."""
    unplanned = (*[None] * 3, record.config["seed"], *[None] * 5)
    return (None, record.run_id, *unplanned, "done", None, None, *_measured(record))


def _measured(record: RunRecord | None) -> Row:
    if record is None:
        return (None,) * 11
    noise = record.noise
    realised = (
        (noise.alpha_mean, noise.alpha_min, noise.alpha_max, noise.noise_to_embedding, noise.num_documents)
        if noise
        else (None,) * 5
    )
    maps = [list(one.items()) for one in (record.counts, record.seconds, record.versions)]
    return (record.alpha, *realised, noise.num_tokens if noise else None, record.data_fingerprint, *maps)


def setting_rows(run_id: str, config: Mapping[str, Any], prefix: str = "") -> Iterator[Row]:
    """Every setting of a run."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from setting_rows(run_id, value, f"{prefix}{name}.")
        else:
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            yield run_id, prefix + name, json.dumps(value), number


def score_rows(record: RunRecord) -> Iterator[Row]:
    """Every score of a run."""
    for key, scores in record.scores.items():
        part, _, variant = key.partition(VARIANT_MARK)
        for metric, values in scores.values.items():
            for example_id, value in zip(scores.example_ids, values, strict=True):
                yield record.run_id, part, variant, example_id, metric, value


def answer_rows(record: RunRecord) -> Iterator[Row]:
    """Every answer of a run."""
    for key, answers in record.answers.items():
        part, _, variant = key.partition(VARIANT_MARK)
        for one in answers:
            said = (one.prompt, one.text, one.reference, one.num_tokens, one.ended)
            yield record.run_id, part, variant, one.example_id, *said


def history_rows(record: RunRecord) -> Iterator[Row]:
    """What was measured while a run was trained."""
    for point in record.history:
        for name, value in point.values.items():
            yield record.run_id, point.step, point.epoch, name, value


def effect_row(study: str, stage: str, effect: Effect) -> Row:
    """An effect."""
    names = [column.name for column in TABLES["effects"]]
    low, high = effect.bootstrap or (None, None)
    extra = {"study": study, "stage": stage, "bootstrap_low": low, "bootstrap_high": high, "seeds": list(effect.seeds)}
    return tuple(extra[name] if name in extra else getattr(effect, name) for name in names)
