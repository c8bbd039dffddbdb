"""The noise in Lightning's Trainer."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from neftune.errors import ConfigError, NoiseError
from neftune.integrations.asked import AskedNoise, resumable
from neftune.integrations.logs import NoiseLog, refuse_unreached
from neftune.noise.handle import NoiseHandle
from neftune.noise.schedules import Schedule
from neftune.noise.settings import Match, NoiseSettings, Positions
from neftune.noise.tables import Embeddings
from neftune.records import RealisedNoise


class NoiseCallback(Callback):
    """The noise for as long as a Lightning trainer fits; each epoch is one exposure.

    It attaches when training begins, after the sanity check, and detaches when fitting ends, also by an exception.
    Every ``log_every_n_steps`` it logs ``noise_alpha`` and ``noise_to_embedding`` (realised since the last log),
    ``noise_documents`` and ``noise_tokens`` (all so far) and ``noise_alpha_asked`` (the schedule's, at the last step).
    Checkpoints keep what was realised, and the alpha that ``nsr`` gave, under the callback's name; the weights in them
    are as ever.

    Args:
        alpha: The paper's scale, >= 0 (paper: 5, 10 or 15).
        distribution: A registered distribution.
        match: "rms" brings every distribution to the uniform's RMS, "paper" uses it unscaled.
        positions: "all" of a document's tokens (the paper), or those of its "prompt" (label -100) or "response" alone.
        schedule: A registered schedule, or a function from progress in [0, 1] (steps done of all steps) to a factor of
            alpha.
        seed: Chooses the stream of noise.
        nsr: Instead of alpha, the noise-to-signal ratio RMS(noise) / RMS(embedding table); see `neftune.alpha_for`.
        length: Mean document length in tokens, which ``nsr`` needs.
        embeddings: The token embedding, or several, as modules of the model or by their dotted names.
        model: Where the LightningModule keeps the model, such as "policy.backbone"; None where it holds only one.

    Raises:
        ConfigError: A setting is out of range, the trainer has two of these callbacks, or a schedule runs in a fit
            without an end.
        NoiseError: The noise cannot reach the model, or no document was noised in the first step or by the end.
    """

    def __init__(  # noqa: PLR0913 (as in `neftune.attach`)
        self,
        alpha: float = 5.0,
        *,
        distribution: str = "uniform",
        match: Match = "rms",
        positions: Positions = "all",
        schedule: str | Schedule = "constant",
        seed: int = 0,
        nsr: float | None = None,
        length: float | None = None,
        embeddings: Embeddings | None = None,
        model: str | None = None,
    ) -> None:
        settings = NoiseSettings(alpha, distribution, match, seed, positions, schedule)
        self._asked = AskedNoise(settings, nsr, length, embeddings)
        self._model = model
        self._handle: NoiseHandle | None = None
        self._log: NoiseLog | None = None
        self._resumed: dict[str, Any] = {}
        self._total: float = math.inf
        self._num_steps = self._first_step = 0

    def realised(self) -> RealisedNoise:
        """What the model received in the last fit, or so far in this one.

        Raises:
            NoiseError: Nothing was noised yet.
        """
        if self._handle is None:
            raise NoiseError("realised() needs a training that has begun, got none. Call it after trainer.fit().")
        return self._handle.realised()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds for a fit that goes on."""
        return resumable(self._handle)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self._resumed = dict(state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a second noise before anything is spent."""
        number = sum(isinstance(callback, NoiseCallback) for callback in trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
        if number > 1:
            raise ConfigError(
                f"training takes one noise at a time, the trainer has {number} NoiseCallbacks. Keep one of them."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach."""
        self._detach()
        self._total = trainer.estimated_stepping_batches
        if self._asked.settings.is_scheduled and math.isinf(self._total):
            raise ConfigError(
                f"schedule {self._asked.settings.schedule!r} needs a fit that ends, got neither max_steps nor "
                "max_epochs. Give the trainer one of them."
            )
        self._handle = self._asked.put_on(_language_model(pl_module, self._model), self._resumed)
        self._resumed = {}
        data_parallel = trainer.distributed_sampler_kwargs or {}
        num_replicas = trainer.world_size // data_parallel.get("num_replicas", trainer.world_size)
        self._log = NoiseLog(self._handle, num_replicas=num_replicas)
        self._num_steps = self._first_step = _num_steps(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make this epoch the exposure."""
        if self._handle is not None:
            self._handle.set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Tell the schedule."""
        if self._handle is not None:
            self._handle.set_progress(min(1.0, _num_steps(trainer) / max(self._total, 1)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the realised noise; refuse a training whose first step the noise did not reach."""
        num_steps = _num_steps(trainer)
        if self._handle is None or self._log is None or num_steps == self._num_steps:
            return
        if self._num_steps == self._first_step:
            refuse_unreached(self._handle, num_steps - self._first_step)
        self._num_steps = num_steps
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if every and num_steps % every == 0:
            values = self._log.take(pl_module.device)
            pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach; refuse a training that the noise never reached."""
        self._detach()
        if self._handle is not None:
            refuse_unreached(self._handle, self._num_steps - self._first_step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach."""
        self._detach()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach."""
        self._detach()

    def _detach(self) -> None:
        if self._handle is not None:
            self._handle.detach()


def _num_steps(trainer: Trainer) -> int:
    # Lightning counts the steps of every optimiser.
    return trainer.global_step // max(len(trainer.optimizers), 1)


def _language_model(module: nn.Module, name: str | None) -> nn.Module:
    """The model inside a LightningModule: the one of that name, or the only one with a token embedding."""
    if name is not None:
        return module.get_submodule(name)
    found: dict[str, nn.Module] = {}
    for path, inner in module.named_modules():
        if hasattr(inner, "get_input_embeddings") and not any(_is_inside(path, outer) for outer in found):
            found[path] = inner
    if len(found) == 1:
        return next(iter(found.values()))
    raise NoiseError(
        f"the noise needs one model with get_input_embeddings() in {type(module).__name__}, got {len(found)}"
        f"{': ' + ', '.join(found) if found else ''}. Say which: NoiseCallback(model='name of its attribute')."
    )


def _is_inside(path: str, outer: str) -> bool:
    return not outer or path.startswith(f"{outer}.")
