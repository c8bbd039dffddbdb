"""One run: a model, its documents and a noise, on TRL's SFTTrainer."""

import contextlib
import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from neftune.config import NoiseConfig, TrainConfig
from neftune.errors import ConfigError, DataError
from neftune.noise.meter import Meter
from neftune.records import Document, HistoryPoint, RealisedNoise, content_hash
from neftune.training.checkpoints import Checkpoint, checkpoint_folder, last_checkpoint
from neftune.training.freezing import frozen
from neftune.training.models import quiet_transformers
from neftune.training.objective import set_objective
from neftune.training.optimizers import nothing_remembered
from neftune.training.probes import STOP_PROBE, Probe, Progress, Timetable, Watch, Watched
from neftune.training.randomness import deterministic_algorithms, preserved_random_state, stream_seed
from neftune.training.ranks import dropout_seed, from_every, from_first, rank
from neftune.training.regularizers import Regularizer, make_regularizers, prepare_all
from neftune.training.shares import blanks_unnoised
from neftune.training.trainer import make_trainer, micro_batch_size, tidied, trainer_arguments

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.sft_trainer import SFTTrainer

    from neftune.integrations.transformers import NoiseCallback

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How one run is trained.

    Attributes:
        train: Optimisation.
        noise: Distribution and matching; its scale is ``alpha``.
        alpha: Noise scale; 0 is the baseline.
        seed: The run's seed; data order, dropout and noise are separate streams of it.
        folder: The only place that is written to.
        probes: Measurements at start, at intervals and at the end, by the name they get in the history.
        stop_at_clean_train_loss: Stop at the first clean training loss at or below this; None trains to the end.
        on_progress: Called after every step.
    """

    train: TrainConfig
    noise: NoiseConfig
    alpha: float
    seed: int
    folder: Path
    probes: Mapping[str, Probe] = field(default_factory=dict[str, Probe])
    stop_at_clean_train_loss: float | None = None
    on_progress: Callable[[Progress], None] | None = None


@dataclass(frozen=True, slots=True)
class Finetuned:
    """What came of a run, beside the trained model itself.

    Attributes:
        history: In order of steps; the first point is step 0.
        noise: The noise the model received; None for alpha = 0.
        counts: "steps", "documents", "parameters", "parameters_trained"; with a loss to stop at also
            "stop_loss_reached" (1 or 0).
        stopped_early: Whether training ended at the loss to stop at, before its full length.
    """

    history: tuple[HistoryPoint, ...]
    noise: RealisedNoise | None
    counts: Mapping[str, int]
    stopped_early: bool


def finetune(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    documents: Sequence[Document],
    *,
    settings: FinetuneSettings,
) -> Finetuned:
    """Trains ``model`` in place on ``documents``; what came of it.

    Called again after a kill, with the model as it was loaded, it goes on from the last checkpoint to the very same
    result, where ``settings.train.checkpoints`` asked for checkpoints; else it starts anew. Checkpoints stay until
    the caller, having stored the result, removes them with `remove_checkpoints`.

    Args:
        model: Comes back trained, in eval mode, otherwise as it was.
        tokenizer: As checked by `check_tokenizer`.
        documents: Already tokenised; the loss is taken where their mask says so.
        settings: How.

    Raises:
        DataError: No documents, or one without a token to train on.
        ConfigError: Settings that contradict each other.
        DivergedError: A loss or gradient norm became NaN or infinite.
        StoreError: The folder cannot be written to, or holds checkpoints of another run.
    """
    _check(documents, settings)
    noise = _noise_callback(settings)
    watch = _watch(model, documents, settings, noise)
    train, regularizers = settings.train, make_regularizers(settings.train.regularizers)
    with checkpoint_folder(settings.folder) as kept, _left_alone(model, noise), _changed(model, train, regularizers):
        num_steps = watch.timetable.num_steps
        arguments = trainer_arguments(train, seed=settings.seed, folder=kept, num_steps=num_steps)
        trainer = make_trainer(model, tokenizer, documents, arguments=arguments, loss_on=train.loss_on)
        set_objective(trainer, regularizers, noise=noise, seed=settings.seed)
        trainer.add_callback(noise)
        trainer.add_callback(watch)
        found = _last_checkpoint(kept, watch) if train.checkpoints else None
        if not found:
            prepare_all(regularizers, model, seed=settings.seed)
        with blanks_unnoised(model, noise):
            _train(trainer, watch, noise, found, settings)
        return _result(model, documents, watch, noise, settings)


def _check(documents: Sequence[Document], settings: FinetuneSettings) -> None:
    if not documents:
        raise DataError("training needs at least one document, got none. Check data.source and data.num_train.")
    for document in documents:
        if not any(document.loss_mask[1:]):
            raise DataError(
                f"a training document needs a response token, example {document.example_id} has none. "
                "Raise data.max_length or drop the example."
            )
    if settings.stop_at_clean_train_loss is not None and STOP_PROBE not in settings.probes:
        raise ConfigError(f"stopping at a clean training loss needs the probe {STOP_PROBE!r}; it is not among probes.")
    micro_batch_size(settings.train)


def _noise_callback(settings: FinetuneSettings) -> "NoiseCallback":
    from neftune.integrations.transformers import NoiseCallback

    return NoiseCallback(
        alpha=settings.alpha,
        distribution=settings.noise.distribution,
        match=settings.noise.match,
        positions=settings.noise.positions,
        schedule=settings.noise.schedule,
        seed=stream_seed(settings.seed, "noise"),
    )


def _watch(
    model: torch.nn.Module, documents: Sequence[Document], settings: FinetuneSettings, noise: "NoiseCallback"
) -> Watch:
    train = settings.train
    steps_per_epoch = math.ceil(len(documents) / train.batch_size)
    timetable = Timetable.make(
        math.ceil(train.epochs * steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        evaluations=train.evaluations,
        checkpoints=train.checkpoints,
        stops_early=settings.stop_at_clean_train_loss is not None,
    )
    watched = Watched(
        settings.probes,
        settings.stop_at_clean_train_loss,
        settings.on_progress,
        _fingerprint(model, documents, settings),
        noise.own_state,
    )
    return Watch(model, timetable, watched)


def _fingerprint(model: torch.nn.Module, documents: Sequence[Document], settings: FinetuneSettings) -> str:
    """What makes a run this run; the model as it starts is part of it."""
    return content_hash(
        [
            settings.train.model_dump(),
            settings.noise.model_dump(),
            settings.alpha,
            settings.seed,
            settings.stop_at_clean_train_loss,
            sorted(settings.probes),
            [asdict(document) for document in documents],
            _weights_digest(model),
        ]
    )


def _weights_digest(model: torch.nn.Module) -> str:
    """Hash of every parameter's name, shape, type, whether it is trained, and first 1,024 numbers."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} {parameter.requires_grad}".encode())
        numbers = parameter.detach().flatten()[:1024].float().cpu()
        digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()


def _last_checkpoint(folder: Path, watch: Watch) -> Checkpoint | None:
    """The checkpoint to go on from: the first rank looks, the others follow."""

    def look() -> list[Any] | None:
        found = last_checkpoint(folder, run=watch.watched.run)
        return found and [str(found.folder), found.state]

    found = from_first(look)
    return found and Checkpoint(Path(found[0]), found[1])


def _train(
    trainer: "SFTTrainer",
    watch: Watch,
    noise: "NoiseCallback",
    found: Checkpoint | None,
    settings: FinetuneSettings,
) -> None:
    from transformers import set_seed

    if found:
        logger.info("going on from %s", found.folder.name)
        watch.restore(found.state)
        noise.go_on_from(found.state["noise"][rank()])
    else:
        watch.measure_start()
        if watch.reached_at_start:
            watch.stopped_early = True
            return
    set_seed(dropout_seed(settings.seed))
    trainer.train(resume_from_checkpoint=str(found.folder) if found else None)


@contextlib.contextmanager
def _changed(model: torch.nn.Module, train: TrainConfig, regularizers: Sequence[Regularizer]) -> Iterator[None]:
    """For as long as it trains, the model has its frozen parts and what its regularisers put on it."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_remembered(train))
        stack.enter_context(frozen(model, train.freeze))
        for one in regularizers:
            stack.enter_context(one.applied(model))
        yield


@contextlib.contextmanager
def _left_alone(model: "PreTrainedModel | PeftModel", noise: "NoiseCallback") -> Iterator[None]:
    """What surrounds the training stays as it was: libraries' settings, random state, the model's hooks."""
    with quiet_transformers(), preserved_random_state(), deterministic_algorithms(), tidied(model):
        try:
            yield
        finally:
            noise.detach()


def _result(
    model: torch.nn.Module,
    documents: Sequence[Document],
    watch: Watch,
    noise: "NoiseCallback",
    settings: FinetuneSettings,
) -> Finetuned:
    parameters = list(model.parameters())
    counts = {
        "steps": watch.history[-1].step,
        "documents": len(documents),
        "parameters": sum(p.numel() for p in parameters),
        "parameters_trained": sum(p.numel() for p in parameters if p.requires_grad),
    }
    target = settings.stop_at_clean_train_loss
    if target is not None:
        counts["stop_loss_reached"] = int(watch.history[-1].values[STOP_PROBE] <= target)
    has_noise = settings.alpha and counts["steps"]
    realised = Meter.of_ranks(from_every(noise.own_state())).realised() if has_noise else None
    return Finetuned(tuple(watch.history), realised, counts, watch.stopped_early)
