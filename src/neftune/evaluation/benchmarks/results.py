"""What a benchmark gave: every example's scores, and lm-eval's own aggregates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from neftune.records import Scores, content_hash

HEADLINE: Mapping[str, str] = {"arc_challenge": "acc_norm", "hellaswag": "acc_norm", "mmlu": "acc"} | {
    "truthfulqa_mc2": "mc2",
    "ifeval": "prompt_level_strict_acc",
}
"""The metric that the Open LLM Leaderboard reports; for other tasks the definition's first."""

_RENAMED = {("truthfulqa_mc2", "acc"): "mc2"}
"""lm-eval calls the probability of the true answers an accuracy."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark of one model.

    Attributes:
        name: The task or group.
        metric: The one metric that stands for it.
        scores: Per example: the definition's metrics; where it is multiple choice also "gold_loglikelihood" (nats),
            "choice" (number of the most likely one), "confidence" (its share of the choices' probability), "margin"
            (nats to the next). An example's id is its task and a hash of question, choices and answer.
        tags: By example id: "task", the task in a group (a subject of MMLU).
        aggregates: lm-eval's results by task and group: "acc,none", "acc_stderr,none", "sample_len", ...
        num_shots: Few-shot examples.
        counts: "examples", "requests", "truncated_requests" (a context that lost its beginning).
        notes: What makes the numbers differ from published ones.
        texts: Generated answers by example id; none for multiple choice.
    """

    name: str
    metric: str
    scores: Scores
    tags: Mapping[str, Mapping[str, str]]
    aggregates: Mapping[str, Mapping[str, Any]]
    num_shots: int
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def headline(self) -> tuple[float, float]:
        """The benchmark's metric and its standard error over examples: lm-eval's where it aggregates them."""
        metric = next((old for (task, old), new in _RENAMED.items() if (task, new) == (self.name, self.metric)), "")
        key = metric or self.metric
        name, _, kind = key.partition(",")
        found = self.aggregates.get(self.name, {})
        value = found.get(f"{name},{kind or 'none'}")
        error = found.get(f"{name}_stderr,{kind or 'none'}")
        values = np.array(self.scores.values[self.metric])
        values = values[np.isfinite(values)]
        spread = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        return (
            float(value) if isinstance(value, int | float) else float(values.mean()),
            float(error) if isinstance(error, int | float) else spread,
        )


@dataclass(frozen=True, slots=True)
class LeafResult:
    """One lm-eval task of one model: a benchmark, or one subject of it.

    Attributes:
        aggregates: lm-eval's results of this task.
        example_ids: One id per example.
        values: Metric -> one number per example, NaN where it is undefined for it.
        counts: "requests", "truncated_requests".
        texts: Generated answers by example id.
    """

    aggregates: Mapping[str, Any]
    example_ids: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    counts: Mapping[str, int]
    texts: Mapping[str, str]


def leaf_result(task: Any, samples: Sequence[Mapping[str, Any]], aggregates: Mapping[str, Any], truncated: int) -> Any:
    """A task's result from lm-eval's logged samples.

    Args:
        task: lm-eval's Task.
        samples: One per example and filter.
        aggregates: lm-eval's results of the task.
        truncated: Requests whose context lost tokens.
    """
    name = str(task.config.task)
    rows: dict[int, dict[str, float]] = {}
    docs: dict[int, Any] = {}
    texts: dict[int, str] = {}
    for sample in samples:
        number = int(sample["doc_id"])
        row = rows.setdefault(number, {})
        docs[number] = sample["doc"]
        row |= _metrics(name, sample)
        if task.OUTPUT_TYPE == "multiple_choice":
            row |= _choice_values(task, sample)
        elif task.OUTPUT_TYPE == "generate_until":
            texts[number] = str(sample["resps"][0][0])
    ids = _ids(task, docs)
    metrics = dict.fromkeys(metric for row in rows.values() for metric in row)
    return LeafResult(
        aggregates=plain(aggregates),
        example_ids=tuple(ids.values()),
        values={metric: tuple(rows[number].get(metric, math.nan) for number in ids) for metric in metrics},
        counts={"requests": len(task.instances), "truncated_requests": truncated},
        texts={ids[number]: text for number, text in texts.items()},
    )


def joined(name: str, leaves: Mapping[str, LeafResult], aggregates: Mapping[str, Any], **known: Any) -> Benchmark:
    """The benchmark that several tasks make, in their order; a metric that a task lacks is NaN there."""
    metrics = dict.fromkeys(metric for leaf in leaves.values() for metric in leaf.values)
    values = {
        metric: tuple(
            value for leaf in leaves.values() for value in leaf.values.get(metric, (math.nan,) * len(leaf.example_ids))
        )
        for metric in metrics
    }
    ids = tuple(one for leaf in leaves.values() for one in leaf.example_ids)
    first = next(iter(metrics), "")
    return Benchmark(
        name=name,
        metric=HEADLINE.get(name, first),
        scores=Scores(ids, values),
        tags={one: {"task": task} for task, leaf in leaves.items() for one in leaf.example_ids},
        aggregates=aggregates,
        counts={"examples": len(ids)}
        | {count: sum(leaf.counts[count] for leaf in leaves.values()) for count in ("requests", "truncated_requests")},
        texts={one: text for leaf in leaves.values() for one, text in leaf.texts.items()},
        **known,
    )


def plain(value: Any) -> Any:
    """The same without NumPy's types, for JSON."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in cast("list[Any]", value)]
    return value.item() if isinstance(value, np.generic) else value


def _metrics(task: str, sample: Mapping[str, Any]) -> dict[str, float]:
    """The definition's metrics of one example; a list (IFEval's instructions) as its mean and its length."""
    row: dict[str, float] = {}
    metrics: list[str] = sample["metrics"]
    for metric in metrics:
        value = plain(sample[metric])
        name: str = _RENAMED.get((task, metric), metric)
        if sample["filter"] != "none":
            name = f"{name},{sample['filter']}"
        if isinstance(value, list) and value and all(isinstance(one, bool) for one in cast("list[Any]", value)):
            row[name] = sum(value) / len(value)
            row[f"{name}_count"] = float(len(value))
        elif isinstance(value, int | float):
            row[name] = float(value)
    return row


def _choice_values(task: Any, sample: Mapping[str, Any]) -> dict[str, float]:
    """What calibration needs, from the log-likelihoods of the choices."""
    doc = sample["doc"]
    num = len(sample["filtered_resps"]) if task.multiple_input else len(task.doc_to_choice(doc))
    lls = np.array([float(response[0]) for response in sample["filtered_resps"][:num]])
    shares = np.exp(lls - lls.max())
    best, *others = np.sort(lls)[::-1]
    row = {
        "choice": float(lls.argmax()),
        "confidence": float(1 / shares.sum()),
        "margin": float(best - others[0]) if others else math.nan,
    }
    gold = task.doc_to_text(doc) if task.multiple_input else sample["target"]
    if isinstance(gold, int) and 0 <= gold < num and not callable(task.config.process_results):
        row["gold_loglikelihood"] = float(lls[gold])
    return row


def _ids(task: Any, docs: Mapping[int, Any]) -> dict[int, str]:
    """Doc number -> id from what the model is asked, so the same question has the same id in every file and order."""
    ids: dict[int, str] = {}
    seen: dict[str, int] = {}
    for number, doc in sorted(docs.items()):
        choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else ()
        content = [str(task.doc_to_text(doc)), [str(one) for one in choices], str(task.doc_to_target(doc))]
        key = f"{task.config.task}/{content_hash(content)}"
        seen[key] = seen.get(key, 0) + 1
        ids[number] = key if seen[key] == 1 else f"{key}#{seen[key]}"
    return ids
