"""The noise in transformers' Trainer and in every trainer made from it (TRL's)."""

import math
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neftune.errors import ConfigError, NoiseError
from neftune.integrations.logs import NoiseLog, refuse_unreached
from neftune.noise.attach import NoiseHandle
from neftune.noise.meter import Meter
from neftune.noise.settings import Match, NoiseSettings
from neftune.records import RealisedNoise


class NoiseCallback(TrainerCallback):
    """The noise for as long as a trainer trains; each epoch is one exposure.

    Where a trainer passes several times over the completions that it generates (TRL's ``num_iterations`` above 1), each
    optimiser step is an exposure instead.

    It attaches when training begins and detaches when it ends. After an exception inside ``train()`` the noise detaches
    itself at the model's next training forward outside that call, which already runs without it. Training logs get
    ``noise_alpha`` and ``noise_to_embedding`` (realised since the last log), ``noise_documents`` and ``noise_tokens``
    (all so far).

    Args:
        alpha: The paper's scale, >= 0 (paper: 5, 10 or 15).
        distribution: A registered distribution.
        match: "rms" brings every distribution to the uniform's RMS, "paper" uses it unscaled.
        seed: Chooses the stream of noise.

    Raises:
        ConfigError: A setting is out of range, the trainer has two of these callbacks, or the training arguments ask
            for transformers' own noise too, or for packing that keeps no document boundaries (TRL's "wrapped").
        NoiseError: The noise cannot reach the model, or no document was noised in the first step or by the end.
    """

    def __init__(
        self, alpha: float = 5.0, *, distribution: str = "uniform", match: Match = "rms", seed: int = 0
    ) -> None:
        self.settings = NoiseSettings(alpha, distribution, match, seed)
        self._handle: NoiseHandle | None = None
        self._epoch = -1
        self._num_steps = 0
        self._log: NoiseLog | None = None
        self._resumed: dict[str, Any] = {}

    def realised(self) -> RealisedNoise:
        """What the model received in the last training, or so far in this one.

        Raises:
            NoiseError: Nothing was noised yet.
        """
        if self._handle is None:
            raise NoiseError("realised() needs a training that has begun, got none. Call it after trainer.train().")
        return self._handle.realised()

    def meter_state(self) -> dict[str, Any]:
        """What was realised so far as plain data, for a checkpoint beside the trainer's own."""
        return self._handle.meter.state() if self._handle else Meter().state()

    def restore_meter(self, state: Mapping[str, Any]) -> None:
        """Let the next training count on from what `meter_state` gave; call it before resuming."""
        self._resumed = dict(state)

    def detach(self) -> None:
        """Take the noise off the model, if it is still on."""
        if self._handle is not None:
            self._handle.detach()

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse a second noise, and packing without boundaries, before anything is spent."""
        _refuse_arguments(args)
        _Training().refuse_second()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach, in place of what an earlier training that failed may have left behind."""
        _refuse_arguments(args)
        training = _Training()
        training.refuse_second()
        training.put_first(self)
        self.detach()
        self._handle = NoiseHandle(_model(kwargs), self.settings, is_alive=training.is_running)
        if self._resumed:
            self._handle.meter.restore(self._resumed)
            self._resumed = {}
        self._log = NoiseLog(self._handle, num_replicas=training.num_replicas())
        self._epoch, self._num_steps = -1, 0
        self._handle.set_epoch(math.floor(state.epoch or 0))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make this epoch the exposure, also where training was resumed in the midst of it."""
        # Where the length of an epoch is not known beforehand, state.epoch lags behind: count as well.
        self._epoch = max(self._epoch + 1, math.floor(state.epoch or 0))
        if self._handle is not None:
            self._handle.set_epoch(self._epoch)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make this step the exposure where one epoch passes several times over the same completions."""
        if self._handle is not None and getattr(args, "num_iterations", 1) > 1:
            self._handle.set_epoch(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step; refuse a training whose first step the noise did not reach."""
        self._num_steps += 1
        if self._handle is not None and self._num_steps == 1:
            refuse_unreached(self._handle, self._num_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put the realised noise beside the training loss, for every tracker and for the trainer's history."""
        if self._log is None or logs is None or "loss" not in logs:
            return
        values = self._log.take(args.device)
        if values:
            logs.update(values)
            state.log_history[-1].update(values)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach; refuse a training that the noise never reached."""
        if self._handle is None:
            return
        self._handle.detach()
        refuse_unreached(self._handle, self._num_steps)


class _Training:
    """The ``train()`` call that is beginning now, as the stack of Python frames shows it."""

    def __init__(self) -> None:
        self._frame: FrameType | None
        self._trainer: Any
        self._frame, self._trainer = _trainer_frame()
        self._thread = threading.get_ident()

    def is_running(self) -> bool:
        """Whether the asking forward pass happens inside this training."""
        if self._frame is None or threading.get_ident() != self._thread:
            return True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame is self._frame:
                return True
            frame = frame.f_back
        return False

    def num_replicas(self) -> int:
        """How many ranks noise the very same tokens: those of one tensor-parallel group."""
        return self._trainer.get_tp_size() if hasattr(self._trainer, "get_tp_size") else 1

    def put_first(self, callback: TrainerCallback) -> None:
        """Let a callback hear of logs before the trackers do, which otherwise come first."""
        callbacks = self._callbacks()
        if callback in callbacks:
            callbacks.remove(callback)
            callbacks.insert(0, callback)

    def refuse_second(self) -> None:
        """Refuse a trainer that has two callbacks for the noise, or one of them twice."""
        number = sum(isinstance(callback, NoiseCallback) for callback in self._callbacks())
        if number > 1:
            raise ConfigError(
                f"training takes one noise at a time, the trainer has {number} NoiseCallbacks. Keep one of them."
            )

    def _callbacks(self) -> list[TrainerCallback]:
        return getattr(getattr(self._trainer, "callback_handler", None), "callbacks", [])


def _trainer_frame() -> tuple[FrameType | None, object]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if hasattr(owner, "callback_handler"):
            return frame, owner
        frame = frame.f_back
    return None, None


def _model(kwargs: dict[str, Any]) -> nn.Module:
    model = kwargs.get("model")
    if not isinstance(model, nn.Module):
        raise NoiseError(
            f"the noise needs the trainer's model, which on_train_begin gives; got {type(model).__name__}. "
            "Use neftune.attach(model) instead of the callback."
        )
    return model


def _refuse_arguments(args: TrainingArguments) -> None:
    alpha = getattr(args, "neftune_noise_alpha", None)
    if alpha is not None:
        raise ConfigError(
            "training takes one noise at a time, got NoiseCallback and the training argument "
            f"neftune_noise_alpha={alpha}. Remove neftune_noise_alpha."
        )
    if getattr(args, "packing", False) and getattr(args, "packing_strategy", None) == "wrapped":
        raise ConfigError(
            "the noise needs packed rows that say where documents begin and end, got packing_strategy='wrapped', which "
            "cuts and joins documents without boundaries. Use packing_strategy='bfd' (or 'bfd_split')."
        )
