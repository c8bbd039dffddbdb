"""One run from its settings to its record: data, model, fine-tuning with noise, evaluation with the noise off."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.config import BenchmarksConfig, RunConfig
from neftune.errors import ModelError, StoreError
from neftune.records import DataSet, Document, HistoryPoint, Part, RunRecord, content_hash
from neftune.study.data import load_run_data
from neftune.study.identity import code_version, evaluation_fingerprint, model_fingerprint, versions
from neftune.study.plan import run_id

if TYPE_CHECKING:
    from neftune.training.finetune import Finetuned
    from neftune.training.models import LoadedModel

Report = Callable[[Mapping[str, Any]], None]
"""Told where the run stands: stage, step, num_steps, loss."""


@dataclass
class Trained:
    """A fine-tuned model in memory, with what evaluation and the record need."""

    loaded: "LoadedModel"
    data: DataSet
    finetuned: "Finetuned"
    alpha: float
    counts: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict[str, float])


def train_run(
    config: RunConfig,
    folder: Path,
    *,
    stop_at_clean_train_loss: float | None = None,
    report: Report = lambda _: None,
) -> Trained:
    """Fine-tune one model as its settings say.

    Args:
        config: What determines the run.
        folder: Where checkpoints and, if asked, the weights are kept.
        stop_at_clean_train_loss: Stop once the clean training loss is at or below this, in nats per token.
        report: Told where the run stands.

    Raises:
        DataError, ModelError: What was given cannot be used.
        DivergedError: The loss became NaN or infinite.
        NoiseError: The noise did not reach the model.
    """
    from neftune.training.finetune import FinetuneSettings, finetune
    from neftune.training.models import load_model
    from neftune.training.ranks import is_first

    seconds: dict[str, float] = {}
    report({"stage": "loading"})
    with _timed(seconds, "loading"):
        data = load_run_data(config.data)
        loaded = load_model(config.model, config.data, seed=config.seed)
        documents, counts = _documents(data, loaded, config)
    alpha = _alpha(config, loaded.model, documents["train"])
    settings = FinetuneSettings(
        train=config.train,
        noise=config.noise,
        alpha=alpha,
        seed=config.seed,
        folder=folder,
        probes=_probes(loaded.model, documents, config),
        stop_at_clean_train_loss=stop_at_clean_train_loss,
        on_progress=lambda progress: report(
            {"stage": "training", "step": progress.step, "num_steps": progress.num_steps, **progress.values}
        ),
    )
    with _timed(seconds, "training"):
        finetuned = finetune(loaded.model, loaded.tokenizer, documents["train"], settings=settings)
    if config.train.save_model and is_first():
        loaded.save(folder / "model")
    return Trained(loaded, data, finetuned, alpha, {**counts, **finetuned.counts}, seconds)


def run_one(
    run_id: str,
    config: RunConfig,
    folder: Path,
    *,
    stop_at_clean_train_loss: float | None = None,
    report: Report = lambda _: None,
) -> RunRecord:
    """Train, evaluate and record one run; arguments and errors as `train_run`."""
    trained = train_run(config, folder, stop_at_clean_train_loss=stop_at_clean_train_loss, report=report)
    record = training_record(run_id, config, trained)
    return evaluated(record, trained.loaded, trained.data, config, cache=folder / "benchmarks", report=report)


def training_record(run_id: str, config: RunConfig, trained: Trained) -> RunRecord:
    """What training a run gave, before anything is asked of the model."""
    return RunRecord(
        run_id=run_id,
        config=config.model_dump(mode="json"),
        history=trained.finetuned.history,
        noise=trained.finetuned.noise if trained.alpha > 0 else None,
        alpha=trained.alpha,
        counts=trained.counts,
        answers={},
        scores={},
        versions=versions(config),
        seconds=trained.seconds,
        data_fingerprint=trained.data.fingerprint,
    )


def evaluated(
    record: RunRecord,
    loaded: "LoadedModel",
    data: DataSet,
    config: RunConfig,
    *,
    cache: Path | None = None,
    report: Report = lambda _: None,
) -> RunRecord:
    """A run's record with answers and scores of its model, noise off.

    Args:
        record: What is known of the run.
        loaded: Its model and tokenizer.
        data: Its data.
        config: Its settings.
        cache: Where finished benchmarks are kept, so that a killed run does not start them anew.
        report: Told where the run stands.
    """
    from neftune.evaluation.evaluate import evaluate_model

    seconds = dict(record.seconds)
    report({"stage": "evaluating"})
    with _timed(seconds, "evaluation"):
        evaluation = evaluate_model(
            loaded.model,
            loaded.tokenizer,
            data,
            config,
            on_progress=lambda done, prompts: report({"stage": "evaluating", "step": done, "num_steps": prompts}),
        )
    asked = {one for scores in evaluation.scores.values() for one in scores.example_ids}
    tags = {one.id: one.tags for part in data.parts.values() for one in part if one.id in asked and one.tags}
    counts = {**record.counts, **evaluation.counts}
    record = replace(
        record, answers=evaluation.answers, scores=evaluation.scores, counts=counts, seconds=seconds, tags=tags
    )
    return _benchmarked(record, loaded, config.evaluate.benchmarks, cache=cache, report=report)


def _benchmarked(
    record: RunRecord, loaded: "LoadedModel", settings: BenchmarksConfig, *, cache: Path | None, report: Report
) -> RunRecord:
    """The record with every benchmark as one more part."""
    if not settings.tasks:
        return record
    from neftune.evaluation.benchmarks.run import RunOptions, run_benchmarks
    from neftune.study.check import task_options

    seconds = dict(record.seconds)
    with _timed(seconds, "benchmarks"):
        found = run_benchmarks(
            loaded.model,
            loaded.tokenizer,
            settings.tasks,
            tasks=task_options(settings),
            options=RunOptions(limit=settings.limit, batch_size=settings.batch_size, cache=cache),
            on_progress=lambda done, examples: report({"stage": "benchmarks", "step": done, "num_steps": examples}),
        )
    return replace(
        record,
        scores={**record.scores, **{name: one.scores for name, one in found.items()}},
        tags={**record.tags, **{key: tags for one in found.values() for key, tags in one.tags.items()}},
        counts={
            **record.counts,
            **{f"{name}_{kind}": number for name, one in found.items() for kind, number in one.counts.items()},
        },
        seconds=seconds,
    )


def evaluate_checkpoint(config: RunConfig, *, report: Report = lambda _: None) -> RunRecord:
    """The record of a model that is evaluated as it is, without training.

    Raises:
        DataError, ModelError: What was given cannot be used.
    """
    from neftune.training.models import load_model

    report({"stage": "loading"})
    data = load_run_data(config.data)
    loaded = load_model(config.model, config.data, seed=config.seed)
    record = RunRecord(
        run_id=content_hash(config.model_dump(mode="json")),
        config=config.model_dump(mode="json"),
        history=(),
        noise=None,
        alpha=0.0,
        counts=data.counts,
        answers={},
        scores={},
        versions=versions(),
        seconds={},
        data_fingerprint=data.fingerprint,
    )
    return evaluated(record, loaded, data, config, report=report)


def final_clean_train_loss(history: tuple[HistoryPoint, ...]) -> float:
    """The last clean training loss of a run, in nats per token.

    Raises:
        ModelError: It was never measured.
    """
    for point in reversed(history):
        if "clean_train_loss" in point.values:
            return point.values["clean_train_loss"]
    raise ModelError("a run to be matched needs a clean training loss, got a history without one.")


def check_unchanged(planned_id: str, config: RunConfig) -> None:
    """Refuse a run whose data, weights or code are no longer those it was planned with.

    Raises:
        StoreError: They changed, so its result would be stored under a name that says otherwise.
    """
    data = load_run_data(config.data).fingerprint
    now = run_id(
        config,
        data=data,
        model=model_fingerprint(config),
        evaluation=evaluation_fingerprint(config.evaluate),
        code_version=code_version(),
    )
    if now != planned_id:
        raise StoreError(
            f"run {planned_id} needs the data, weights and code it was planned with, got others (now {now}). "
            "Start the study again to plan it anew."
        )


def _documents(
    data: DataSet, loaded: "LoadedModel", config: RunConfig
) -> tuple[dict[Part, tuple[Document, ...]], dict[str, int]]:
    """Documents to train on and to watch the clean losses on, and what was counted on the way."""
    from neftune.data.batches import tokenise
    from neftune.data.prompts import resolve_template

    template = resolve_template(config.data.template, loaded.tokenizer)
    counts = dict(data.counts)
    documents: dict[Part, tuple[Document, ...]] = {}
    for part in ("train", "heldout"):
        tokenised = tokenise(data.parts[part], loaded.tokenizer, template=template, max_length=config.data.max_length)
        documents[part] = tokenised.documents
        counts |= {f"{part}_{name}": number for name, number in tokenised.counts.items()}
        counts[f"{part}_documents"] = len(tokenised.documents)
    counts["train_tokens"] = sum(len(document.input_ids) for document in documents["train"])
    return documents, counts


def _alpha(config: RunConfig, model: Any, documents: tuple[Document, ...]) -> float:
    """The alpha asked for, or the one that gives the noise-to-signal ratio at the mean document length."""
    if config.noise.nsr is None:
        return config.noise.alpha or 0.0
    if config.noise.nsr == 0:
        return 0.0
    from neftune.noise.ratio import alpha_for

    length = sum(len(document.input_ids) for document in documents) / len(documents)
    return alpha_for(model, nsr=config.noise.nsr, length=length)


def _probes(
    model: Any, documents: Mapping[Part, tuple[Document, ...]], config: RunConfig
) -> dict[str, Callable[[], float]]:
    """The clean losses that are watched: mean over documents of the mean loss per response token, in nats."""
    from neftune.evaluation.losses import example_losses

    watched = {
        "clean_train_loss": documents["train"][: config.train.num_clean_train],
        "clean_heldout_loss": documents["heldout"][: config.train.num_clean_heldout],
    }

    def probe(part: tuple[Document, ...]) -> Callable[[], float]:
        def measure() -> float:
            losses = example_losses(model, part)
            return sum(losses) / len(losses)

        return measure

    return {name: probe(part) for name, part in watched.items()}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Generator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 3)
