"""Benchmarks of a model in memory, task by task, so that a killed evaluation goes on with the next task."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neftune.errors import ConfigError
from neftune.evaluation.benchmarks.cache import LeafCache
from neftune.evaluation.benchmarks.lm import SEED, RequestCounter, evaluation_state, hf_backend, sharing_backend
from neftune.evaluation.benchmarks.results import Benchmark, LeafResult, joined, leaf_result, plain
from neftune.evaluation.benchmarks.tasks import LoadedTask, TaskOptions, load_tasks

BACKENDS = ("neftune", "hf")
"""What scores: this package's, which runs shared prefixes once, or lm-eval's own; the numbers are the same."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How benchmarks are run.

    Attributes:
        limit: Examples per task, the first ones (per subject of MMLU); None takes all.
        batch_size: Sequences per forward pass.
        backend: One of `BACKENDS`.
        cache: Folder where finished tasks (and the log-likelihoods of the one that runs, by "neftune") are kept, for
            a run that is started again; None keeps nothing.
    """

    limit: int | None = None
    batch_size: int = 8
    backend: str = "neftune"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be 1 or more examples per task, got {self.limit}. Leave it out for all.")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {self.batch_size}.")
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}.")


def run_benchmarks(
    model: Any,
    tokenizer: Any,
    names: Sequence[str],
    *,
    tasks: TaskOptions | None = None,
    options: RunOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Benchmark]:
    """Every benchmark's scores per example, noise off.

    The model's mode, the random states and torch's default type are as before afterwards.

    Args:
        model: A causal language model of transformers, with or without PEFT adapters.
        tokenizer: Its tokenizer.
        names: Tasks of lm-eval, or "leaderboard" for the paper's four.
        tasks: Where data and definitions come from, and shots.
        options: How they are run.
        on_progress: Called with (examples done, examples in all).

    Raises:
        UnknownNameError: lm-eval has no such task.
        ConfigError: An option is out of range or does not fit the task.
        DataError: A task file is missing or broken.
        ModelError: The model's context cannot hold an answer.
        MissingExtraError: lm-eval is not installed.
    """
    options = options or RunOptions()
    with evaluation_state(model):
        loaded = load_tasks(names, tasks)
        cache = LeafCache(options.cache, model, tokenizer, options.backend)
        backend = _backend(model, tokenizer, options)
        progress = _Progress(loaded, options.limit, on_progress)
        done: dict[str, dict[str, LeafResult]] = {}
        for task in loaded:
            done[task.name] = {
                name: _run_leaf(backend, leaf, options.limit, cache=cache, progress=progress)
                for name, leaf in task.leaves.items()
            }
        plain = getattr(backend, "why_plain", None)
        notes = () if plain is None else (f"scored by lm-eval's plain backend, because {plain}",)
        return {task.name: _benchmark(task, done[task.name], notes) for task in loaded}


def _backend(model: Any, tokenizer: Any, options: RunOptions) -> Any:
    if options.backend == "hf":
        return hf_backend(model, tokenizer, batch_size=options.batch_size)
    kept = None if options.cache is None else options.cache / "log-likelihoods.sqlite"
    return sharing_backend(model, tokenizer, batch_size=options.batch_size, score_cache=kept)


class _Progress:
    """Examples done of all tasks."""

    def __init__(self, loaded: Sequence[LoadedTask], limit: int | None, tell: Callable[[int, int], None] | None):
        leaves = list(itertools.chain.from_iterable(task.leaves.values() for task in loaded))
        self.tell = tell
        self.limit = limit
        self.done = 0
        self.total = sum(self.size(leaf) for leaf in leaves)

    def size(self, leaf: Any) -> int:
        """Examples of a task that are evaluated."""
        num = len(leaf.task_docs)
        return num if self.limit is None else min(num, self.limit)

    def inside(self, leaf: Any, num_requests_done: int) -> None:
        """Some requests of the task that runs are finished."""
        self._say(self.done + num_requests_done * self.size(leaf) // max(len(leaf.instances or ()), 1))

    def finish(self, leaf: Any) -> None:
        """A task is finished."""
        self.done += self.size(leaf)
        self._say(self.done)

    def _say(self, done: int) -> None:
        if self.tell is not None:
            self.tell(min(done, self.total), self.total)


def _run_leaf(backend: Any, leaf: Any, limit: int | None, *, cache: LeafCache, progress: _Progress) -> LeafResult:
    from lm_eval.evaluator import evaluate

    key = cache.key(leaf, limit)
    kept = cache.read(key)
    if kept is None:
        leaf.set_fewshot_seed(seed=SEED)
        backend.set_cache_hook(RequestCounter(lambda num: progress.inside(leaf, num)))
        before = backend.num_truncated
        found: Any = evaluate(backend, {"tasks": {leaf.config.task: leaf}}, limit=limit, log_samples=True)
        name = str(leaf.config.task)
        samples = found["samples"][name]
        kept = leaf_result(leaf, samples, found["results"][name], backend.num_truncated - before)
        cache.write(key, kept)
    progress.finish(leaf)
    return kept


def _benchmark(task: LoadedTask, leaves: Mapping[str, LeafResult], more_notes: tuple[str, ...]) -> Benchmark:
    metrics: dict[str, Any] = {name: dict(leaf.aggregates) for name, leaf in leaves.items()}
    if hasattr(task.built, "get_all_groups"):
        for group in [*reversed(task.built.get_all_groups()), task.built]:
            metrics[group.name] = plain(group.aggregate(metrics))
    shots = {int(leaf.config.num_fewshot) for leaf in task.leaves.values()}
    notes = [*task.notes, *more_notes]
    truncated = sum(leaf.counts["truncated_requests"] for leaf in leaves.values())
    if truncated:
        total = sum(leaf.counts["requests"] for leaf in leaves.values())
        notes.append(
            f"{truncated:,} of {total:,} requests were longer than the model's context and lost their beginning"
        )
    return joined(task.name, leaves, metrics, num_shots=max(shots), notes=tuple(notes))
