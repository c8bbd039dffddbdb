"""How fast runs like these were before, on this machine: the best evidence for how long the next ones take."""

import heapq
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neftune.config import RunConfig

MACHINE = f"{platform.machine()}, {os.cpu_count()} cores"


@dataclass(frozen=True, slots=True)
class Measured:
    """Earlier runs of the same model on this machine.

    Attributes:
        runs: How many.
        train_seconds: Per training token.
        evaluation_seconds: Per prompt that is answered, losses included.
        loading_seconds: Per run.
        benchmark_seconds: Per run; 0 where no run had benchmarks.
    """

    runs: int
    train_seconds: float
    evaluation_seconds: float
    loading_seconds: float
    benchmark_seconds: float


NEWEST = 200
"""Results that are read, the newest; a large store would take minutes, and old runs tell of old versions."""


def earlier_runs(root: Path) -> list[dict[str, Any]]:
    """What the newest runs of this machine say of their time; a result that cannot be read is passed over."""
    found: list[dict[str, Any]] = []
    for path in heapq.nlargest(NEWEST, root.glob("runs/*/result.json"), key=_when):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["versions"].get("machine") == MACHINE and "training" in values["seconds"]:
                asked = sum(len(scores["example_ids"]) for part, scores in values["scores"].items()
                            if part in values["answers"])  # fmt: skip
                kept = {key: values[key] for key in ("config", "counts", "seconds", "noise")}
                found.append({**kept, "asked": asked})
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
    return found


def _when(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0


def measured(config: RunConfig, runs: Iterable[Mapping[str, Any]]) -> Measured | None:
    """How fast earlier runs of a configuration's kind were; None where there are none.

    The kind: every setting that changes the cost of a training token or of an answer. Medians over runs.
    """
    kind = _kind(config.model_dump(mode="json"))
    alike = [run for run in runs if _kind(run["config"]) == kind and run["counts"].get("steps")]
    if not alike:
        return None
    train = [run["seconds"]["training"] / _tokens_seen(run) for run in alike]
    evaluated = [run["seconds"]["evaluation"] / run["asked"] for run in alike if run["asked"]]
    return Measured(
        len(alike),
        statistics.median(train),
        statistics.median(evaluated) if evaluated else 0.0,
        statistics.median(run["seconds"].get("loading", 0.0) for run in alike),
        statistics.median(run["seconds"].get("benchmarks", 0.0) for run in alike),
    )


def _kind(config: Mapping[str, Any]) -> str:
    model, data, train, evaluate = config["model"], config["data"], config["train"], config["evaluate"]
    adapters = model.get("lora") if model.get("adapter") != "none" else None
    settings = [
        adapters,
        *(model.get(name) for name in ("path", "dtype", "adapter", "quantization")),
        *(data.get(name) for name in ("source", "max_length")),
        *(train.get(name, _OF_OLD.get(name)) for name in _TRAIN),
        *(evaluate.get(name) for name in ("max_new_tokens", "batch_size", "benchmarks")),
    ]
    return json.dumps(settings, sort_keys=True)


_TRAIN = (
    "batch_size", "micro_batch_size", "gradient_checkpointing", "optimizer", "regularizers", "freeze", "world_size",
    "loss_on", "evaluations", "num_clean_train", "num_clean_heldout",
)  # fmt: skip

_OF_OLD: dict[str, Any] = {
    "optimizer": "adamw",
    "regularizers": {},
    "freeze": [],
    "world_size": 1,
    "loss_on": "response",
}
"""What results say that are older than these settings."""


def _tokens_seen(run: Mapping[str, Any]) -> float:
    """Training tokens of all passes that a run made."""
    counts, train = run["counts"], run["config"]["train"]
    per_epoch = -(-counts["documents"] // train["batch_size"])
    return counts["train_tokens"] * counts["steps"] / per_epoch
