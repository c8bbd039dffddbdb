"""A study's estimate in a terminal, and as data for other programs."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neftune.report import numbers

if TYPE_CHECKING:
    from neftune.study.estimate.estimate import RunEstimate, StudyEstimate

WIDTH = 110
SHOWN = 8
"""Kinds of runs that the table shows one by one."""

SCHEMA = "neftune.estimate/1"

_LABELS = {
    "data.seed": "world",
    "model.path": "model",
    "data.source": "data",
    "train.freeze": "frozen",
    "train.loss_on": "loss on",
    "train.num_clean_train": "clean training examples",
    "train.num_clean_heldout": "clean held-out examples",
    "train.world_size": "ranks",
    "evaluate.batch_size": "prompts together",
    "model.lora.r": "rank",
    "model.lora.alpha": "adapter alpha",
    "model.lora.dropout": "adapter dropout",
}
"""What a person calls a knob whose last word does not say it."""

_UNSAID = ("evaluate.parts", *(f"train.{name}" for name in (
    "learning_rate", "schedule", "warmup_ratio", "min_lr_ratio", "decay_ratio", "weight_decay", "max_grad_norm",
)))  # fmt: skip
"""Knobs that a stage's name says, or that cost nothing."""


def estimate_text(estimate: "StudyEstimate") -> str:
    """What a person needs in order to decide whether to start."""
    lines = [*_head(estimate), "", *_table(estimate), "", *_totals(estimate)]
    return numbers.ascii_only("\n".join(lines))


def _head(estimate: "StudyEstimate") -> Iterator[str]:
    stages = ", ".join(f"{name} {number:,}" for name, number in estimate.stages.items())
    done = f", {estimate.done:,} done already" if estimate.done else ""
    yield f"study {estimate.name}: {numbers.count(estimate.runs, 'run')} to do ({stages}{done}); nothing was started"
    for shape, dtype in dict.fromkeys((one.shape, one.config.model.dtype) for _, one in estimate.kinds):
        trained = "all trained" if shape.trained == shape.parameters else f"{amount(shape.trained)} trained"
        yield f"model    {shape.name}, {amount(shape.parameters)} parameters ({trained}), {dtype}"
    machine = estimate.machine
    number = f"{estimate.slots} runs at a time on" if machine.one is None else f"{machine.processors} x"
    yield f"machine  {number} {machine.title}"


def _table(estimate: "StudyEstimate") -> Iterator[str]:
    names = kind_names([(one.stage, one.config) for _, one in estimate.kinds])
    width = max([len("kind of run"), *map(len, names[:SHOWN])])
    heads = ("runs", "steps", "tokens", "padded", "training", "evaluation", "memory", "disk")
    widths = (6, 7, 9, 9, 13, 13, 9, 9)
    yield "kind of run".ljust(width) + "".join(head.rjust(size) for head, size in zip(heads, widths, strict=True))
    for name, (number, one) in list(zip(names, estimate.kinds, strict=True))[:SHOWN]:
        cells = (
            f"{number:,}",
            f"{one.work.steps:,}",
            amount(one.work.train_tokens),
            amount(one.work.padded_tokens),
            numbers.duration(one.seconds.get("training")),
            numbers.duration(one.seconds.get("evaluation")),
            size_of(one.memory.peak),
            size_of(one.disk.record + one.disk.model),
        )
        yield name.ljust(width) + "".join(cell.rjust(size) for cell, size in zip(cells, widths, strict=True))
    if len(names) > SHOWN:
        yield f"... and {numbers.count(len(names) - SHOWN, 'more kind')} of run; --json has them all"


def _totals(estimate: "StudyEstimate") -> Iterator[str]:
    yield from _wrapped(f"tokens   {_tokens(estimate)}")
    yield from _wrapped(f"time     {_time(estimate)}")
    yield from _wrapped(f"memory   {_memory(estimate)}")
    yield f"disk     {_disk(estimate)}"
    for note in estimate.notes:
        yield from _wrapped(f"note     {note}")


def _tokens(estimate: "StudyEstimate") -> str:
    evidence = list(dict.fromkeys(one.tokens.evidence for _, one in estimate.kinds))
    exact = all(one.tokens.exact for _, one in estimate.kinds)
    return (
        f"{amount(estimate.total('train_tokens'))} trained on "
        f"({amount(estimate.total('padded_tokens'))} with padding), "
        f"{amount(estimate.total('answer_tokens'))} answered where every answer is as long as it may be. "
        f"{'Counted' if exact else 'Estimated'}: {'; '.join(evidence)}."
    )


def _time(estimate: "StudyEstimate") -> str:
    if math.isnan(estimate.wall_seconds):
        return "; ".join(dict.fromkeys(one.evidence for _, one in estimate.kinds))
    machine = estimate.machine
    unit = "processor" if machine.one is None else "GPU"
    text = f"{numbers.duration(estimate.wall_seconds)} until the last run is done"
    text += f"; {estimate.total('seconds') / 3600:,.{0 if estimate.total('seconds') > 36000 else 2}f} {unit}-hours"
    if estimate.wall_range:
        (low, slow), (high, fast) = estimate.wall_range
        text += f" ({numbers.duration(slow)} at {low:.0%} of the peak, {numbers.duration(fast)} at {high:.0%})"
    return text + ". " + "; ".join(dict.fromkeys(one.evidence for _, one in estimate.kinds)) + "."


def _memory(estimate: "StudyEstimate") -> str:
    if not estimate.kinds:
        return "nothing to do"
    largest = max((one for _, one in estimate.kinds), key=lambda one: one.memory.peak)
    memory = {**largest.memory.parts, _runtime(estimate): largest.memory.runtime}
    parts = ", ".join(f"{name} {size_of(size)}" for name, size in memory.items() if size)
    each = "a run" if largest.work.ranks == 1 else "a rank"
    text = f"{size_of(largest.memory.peak)} of {size_of(estimate.machine.memory)} {each}: {parts}."
    if largest.fits:
        return text
    remedy = " or ".join(f"--{one.replace(' ', ' --').replace('=', ' ')}" for one in largest.remedies)
    return text + (f" IT DOES NOT FIT. It would with {remedy}." if remedy else " IT DOES NOT FIT, whatever is set.")


def _runtime(estimate: "StudyEstimate") -> str:
    """What the memory is called that is there before the model."""
    return "process" if estimate.machine.one is None else "GPU runtime"


def _disk(estimate: "StudyEstimate") -> str:
    checkpoints = estimate.disk_peak - estimate.total("record") - estimate.total("model")
    text = f"{size_of(estimate.disk_peak)} at most: answers and scores {size_of(estimate.total('record'))}"
    for name, size in (("weights kept", estimate.total("model")), ("checkpoints of runs in flight", checkpoints)):
        text += f", {name} {size_of(size)}" if size else ""
    return text


def kind_names(kinds: Sequence[tuple[str, Any]]) -> list[str]:
    """What tells kinds of runs apart, in words: their stage, and the settings in which they differ.

    Args:
        kinds: (stage, settings of a run) of each.
    """
    configs = [config for _, config in kinds]
    flat = [dict(_flat(config.model_dump(mode="json"))) for config in configs]
    ignored = ("seed", "noise", "stop_at_train_loss_of")
    knobs = dict.fromkeys(knob for one in flat for knob in one)
    differing = [
        knob
        for knob in knobs
        if len({str(one.get(knob)) for one in flat}) > 1 and knob.split(".")[0] not in ignored and knob not in _UNSAID
    ]
    has_stages = len({stage for stage, _ in kinds}) > 1
    stops = any(config.stop_at_train_loss_of for config in configs)
    names: list[str] = []
    for (stage, config), one in zip(kinds, flat, strict=True):
        said = [stage] if has_stages else []
        said += [_said(knob, one.get(knob)) for knob in differing]
        if stops and config.stop_at_train_loss_of:
            said.append("stopped early at the latest")
        elif config.evaluate.variants and config.asks_variants:
            said.append("asked under variants")
        names.append(", ".join(said) or "every run")
    return names


def _said(knob: str, value: object) -> str:
    """A setting as a person would say it: "data alpaca", "3 epochs", "no r3f"."""
    label = _LABELS.get(knob, knob.rsplit(".", 1)[-1].replace("_", " "))
    if value is None or value is False or value == []:
        return f"nothing {label}" if knob == "train.freeze" else f"no {label}"
    if value is True:
        return label
    if isinstance(value, list):
        return f"{label} {'+'.join(map(str, value))}"  # pyright: ignore[reportUnknownArgumentType]
    if knob == "train.epochs" and isinstance(value, float):
        return f"{value:g} epoch{'' if value == 1 else 's'}"
    return f"{label} {value:g}" if isinstance(value, float) else f"{label} {value}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def amount(number: float) -> str:
    """A count as "437 k", "6.74 B"."""
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def size_of(size: float) -> str:
    """Bytes as "56.6 GB" (10^9)."""
    for one, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= one:
            return f"{size / one:.3g} {unit}" if size < 1000 * one else f"{size / one:,.0f} {unit}"
    return f"{size:.0f} B"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * 9, drop_whitespace=True) or [""]


def estimate_data(estimate: "StudyEstimate") -> dict[str, Any]:
    """The estimate as plain data; seconds are None where nothing is known."""
    names = kind_names([(one.stage, one.config) for _, one in estimate.kinds])
    quantities = ("train_tokens", "padded_tokens", "answer_tokens", "train_flops", "forward_flops")
    return {
        "schema": SCHEMA,
        "study": estimate.name,
        "runs": {"to_do": estimate.runs, "done": estimate.done, "stages": dict(estimate.stages)},
        "machine": {
            "name": estimate.machine.name,
            "title": estimate.machine.title,
            "processors": estimate.machine.processors,
            "utilisation": None if estimate.machine.one is None else estimate.machine.utilisation,
        },
        "total": {
            **{name: round(estimate.total(name)) for name in quantities},
            "seconds": _known(estimate.total("seconds")),
            "wall_seconds": _known(estimate.wall_seconds),
            "wall_range": [[share, seconds] for share, seconds in estimate.wall_range],
            "disk_bytes": round(estimate.disk_peak),
        },
        "kinds": [
            {"name": name, "stage": one.stage, "runs": number, **_run_data(one, _runtime(estimate))}
            for name, (number, one) in zip(names, estimate.kinds, strict=True)
        ],
        "notes": list(estimate.notes),
    }


def _run_data(one: "RunEstimate", runtime: str) -> dict[str, Any]:
    return {
        "model": {name: getattr(one.shape, name) for name in ("name", "parameters", "trained", "adapters", "active")},
        "ranks": one.work.ranks,
        "steps": one.work.steps,
        "documents": len(one.tokens.train),
        "train_tokens": one.work.train_tokens,
        "padded_tokens": one.work.padded_tokens,
        "tokens_exact": one.tokens.exact,
        "tokens_evidence": one.tokens.evidence,
        "prompts": one.work.answers,
        "answer_tokens": one.work.answer_tokens,
        "train_flops": one.work.train_flops,
        "forward_flops": one.work.forward_flops,
        "seconds": dict(one.seconds),
        "time_evidence": one.evidence,
        "memory": {
            **one.memory.parts,
            runtime: one.memory.runtime,
            "answering": one.memory.answering,
            "peak": one.memory.peak,
        },
        "fits": one.fits,
        "would_fit_with": list(one.remedies),
        "disk": {"record": one.disk.record, "model": one.disk.model, "checkpoints": one.disk.checkpoints},
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
