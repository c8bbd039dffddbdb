"""The noise in transformers' Trainer and in every trainer made from it (TRL's)."""

import contextlib
import dataclasses
import math
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from neftune.errors import ConfigError, NoiseError
from neftune.integrations.asked import AskedNoise, resumable
from neftune.integrations.logs import NoiseLog, refuse_unreached
from neftune.integrations.train_call import TrainCall
from neftune.noise.handle import NoiseHandle
from neftune.noise.schedules import Schedule
from neftune.noise.settings import Match, NoiseSettings, Positions
from neftune.noise.tables import Embeddings
from neftune.records import RealisedNoise


class NoiseCallback(TrainerCallback, ExportableState):
    """The noise for as long as a trainer trains; each epoch is one exposure.

    Where a trainer passes several times over the completions that it generates (TRL's ``num_iterations`` above 1), each
    optimiser step is an exposure instead.

    It attaches when training begins and detaches when it ends. After an exception inside ``train()`` the noise detaches
    itself at the model's next training forward outside that call, which already runs without it. Training logs get
    ``noise_alpha`` and ``noise_to_embedding`` (realised since the last log), ``noise_documents`` and ``noise_tokens``
    (all so far) and ``noise_alpha_asked`` (the schedule's, at the last step). The trainer's checkpoints keep what was
    realised, and the alpha that ``nsr`` gave, so that a resumed training goes on with both.

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

    Raises:
        ConfigError: A setting is out of range, the trainer has two of these callbacks, or the training arguments ask
            for transformers' own noise too, or for packing that keeps no document boundaries (TRL's "wrapped").
        NoiseError: The noise cannot reach the model, or no document was noised in the first step or by the end.
    """

    def __init__(  # noqa: PLR0913 (as in `attach`)
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
    ) -> None:
        settings = NoiseSettings(alpha, distribution, match, seed, positions, schedule)
        self._asked = AskedNoise(settings, nsr, length, embeddings)
        self._handle: NoiseHandle | None = None
        self._log: NoiseLog | None = None
        self._epoch = -1
        self._num_steps = 0
        self._resumed: dict[str, Any] = {}

    @property
    def settings(self) -> NoiseSettings | None:
        """What noise; None as long as its alpha is still to follow from ``nsr`` and the model."""
        if self._handle is not None:
            return self._handle.settings
        return None if self._asked.alpha is None else self._asked.settings

    def realised(self) -> RealisedNoise:
        """What the model received in the last training, or so far in this one.

        Raises:
            NoiseError: Nothing was noised yet.
        """
        if self._handle is None:
            raise NoiseError("realised() needs a training that has begun, got none. Call it after trainer.train().")
        return self._handle.realised()

    def state(self) -> dict[str, Any]:
        """What the trainer writes into its checkpoints: the arguments, and what a resumed training goes on with."""
        settings = self._asked.settings
        arguments = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
        if callable(settings.schedule):
            arguments["schedule"] = f"{settings.schedule!r} (no name to restore it by)"
        arguments |= {"nsr": self._asked.nsr, "length": self._asked.length}
        return {"args": arguments, "attributes": {"_resumed": resumable(self._handle)}}

    def uncounted(self) -> AbstractContextManager[None]:
        """Forwards in this block get their noise and are not counted: see `NoiseHandle.uncounted`."""
        return contextlib.nullcontext() if self._handle is None else self._handle.uncounted()

    def own_state(self) -> dict[str, Any]:
        """What this process realised so far, as plain data, for `go_on_from`; on several ranks each has its own.

        Raises:
            NoiseError: No training has begun.
        """
        if self._handle is None:
            raise NoiseError("own_state() needs a training that has begun, got none. Call it within trainer.train().")
        return self._handle.meter.state()

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Let the training that begins next go on from what `own_state` gave on this rank.

        The trainer's checkpoints hold what was realised where one process trains; of several ranks, one writes them.
        """
        self._resumed = {**self._resumed, "meter": state}

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """No noise inside this block, whatever the phase."""
        with self._handle.paused() if self._handle else contextlib.nullcontext():
            yield

    def detach(self) -> None:
        """Take the noise off the model, if it is still on."""
        if self._handle is not None:
            self._handle.detach()

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse a second noise, and packing without boundaries, before anything is spent."""
        _refuse_arguments(args)
        TrainCall().refuse_second(NoiseCallback)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach, in place of what an earlier training that failed may have left behind."""
        _refuse_arguments(args)
        training = TrainCall()
        training.refuse_second(NoiseCallback)
        training.put_first(self)
        self.detach()
        self._resume(state)
        alive, ranks = training.is_running, training.ranks()
        self._handle = self._asked.put_on(_model(kwargs), self._resumed, is_alive=alive, ranks=ranks)
        self._resumed = {}
        self._log = NoiseLog(self._handle, num_replicas=training.num_replicas())
        self._epoch, self._num_steps = -1, 0
        self._handle.set_epoch(math.floor(state.epoch or 0))
        self._handle.set_progress(_progress(state))

    def _resume(self, state: TrainerState) -> None:
        """Take up what a checkpoint holds, and be in the state that the next one is written from."""
        stored: Any = state.stateful_callbacks
        name = type(self).__name__
        if state.global_step:
            self._resumed = {**stored.get(name, {}).get("attributes", {}).get("_resumed", {}), **self._resumed}
        stored[name] = self.state()

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
        """Tell the schedule; make this step the exposure where an epoch passes several times over its completions."""
        if self._handle is None:
            return
        self._handle.set_progress(_progress(state))
        if getattr(args, "num_iterations", 1) > 1:
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


def _progress(state: TrainerState) -> float:
    return min(1.0, state.global_step / max(state.max_steps, 1))


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
