"""What is watched while a run trains: losses with the noise off, divergence, early stopping, progress."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from neftune.errors import DivergedError
from neftune.records import HistoryPoint
from neftune.training import checkpoints
from neftune.training.optimizers import averaged_weights, schedules_itself
from neftune.training.randomness import preserved_random_state
from neftune.training.ranks import from_every, from_first, is_first

if TYPE_CHECKING:
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

Probe = Callable[[], float]

STOP_PROBE = "clean_train_loss"
STOP_CHECKS_PER_EPOCH = 5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Optimiser steps done.
        num_steps: Optimiser steps the run takes if nothing stops it.
        values: What is known at this step, by the names of `HistoryPoint.values`.
    """

    step: int
    num_steps: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Timetable:
    """At which optimiser steps what happens.

    Attributes:
        num_steps: Steps of the whole run.
        probe_steps: All probes are measured.
        stop_steps: The clean training loss is measured, to stop at it.
        checkpoint_steps: A checkpoint is saved.
    """

    num_steps: int
    probe_steps: frozenset[int]
    stop_steps: frozenset[int]
    checkpoint_steps: frozenset[int]

    @classmethod
    def make(
        cls, num_steps: int, *, steps_per_epoch: int, evaluations: int, checkpoints: int, stops_early: bool
    ) -> "Timetable":
        """Evenly spaced evaluations and checkpoints, and the end.

        Args:
            num_steps: Steps of the whole run.
            steps_per_epoch: Steps in one pass over the data.
            evaluations: Probes between start and end.
            checkpoints: Checkpoints between start and end.
            stops_early: Whether the clean training loss is checked several times an epoch.
        """
        interval = max(1.0, steps_per_epoch / STOP_CHECKS_PER_EPOCH)
        checks = range(1, math.floor(num_steps / interval) + 1) if stops_early else ()
        return cls(
            num_steps,
            frozenset(_between(num_steps, evaluations)) | {num_steps},
            frozenset(math.ceil(check * interval) for check in checks) - {num_steps},
            frozenset(_between(num_steps, checkpoints)),
        )


def _between(num_steps: int, count: int) -> set[int]:
    steps = {round(index * num_steps / (count + 1)) for index in range(1, count + 1)}
    return steps - {0, num_steps}


@dataclass(frozen=True, slots=True)
class Watched:
    """What the watch needs to know.

    Attributes:
        probes: Named measurements, called in eval mode.
        stop_at: Clean training loss at or below which training stops; None never stops.
        on_progress: Called after every step, on the first rank.
        run: Identifies the run in its checkpoints.
        noise: What this rank realised of the noise so far, as plain data.
    """

    probes: Mapping[str, Probe]
    stop_at: float | None
    on_progress: Callable[[Progress], None] | None
    run: str
    noise: Callable[[], Mapping[str, Any]]


class Watch(TrainerCallback):
    """Measures, records and stops; never changes what is trained.

    Where several ranks train, the first one measures and reports, and all of them decide on what it found.
    """

    def __init__(self, model: "torch.nn.Module", timetable: Timetable, watched: Watched) -> None:
        self.model = model
        self.timetable = timetable
        self.watched = watched
        self.history: list[HistoryPoint] = []
        self.stopped_early = False
        self._losses: list[float] = []
        self._optimizer: Any = None

    def on_train_begin(  # noqa: D102
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **known: Any
    ) -> None:
        self._optimizer = known["optimizer"]

    def on_train_end(  # noqa: D102
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> None:
        if schedules_itself(self._optimizer):
            self._optimizer.eval()

    def measure_start(self) -> None:
        """Measures every probe before the first step."""
        self._record(0, 0.0, self._measure(self.watched.probes))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave when the checkpoint was sealed."""
        self.history = [HistoryPoint(**point) for point in state["history"]]
        self._losses = list(state["losses"])

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to write the same history; every rank must ask."""
        return {
            "history": [asdict(point) for point in self.history],
            "losses": self._losses,
            "noise": from_every(self.watched.noise()),
        }

    def on_step_end(  # noqa: D102
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> None:
        control.should_save = state.global_step in self.timetable.checkpoint_steps

    def on_log(  # noqa: D102
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        step, table = state.global_step, self.timetable
        self._refuse_divergence(step, logs)
        self._losses.append(logs["loss"])
        values = {name: float(logs[name]) for name in ("learning_rate", "grad_norm") if name in logs}
        if step in table.probe_steps:
            values |= self._measure(self.watched.probes)
        elif step in table.stop_steps:
            values |= self._measure({STOP_PROBE: self.watched.probes[STOP_PROBE]})
        if self._reached(values) and step < table.num_steps:
            values |= self._measure({n: p for n, p in self.watched.probes.items() if n not in values})
            self.stopped_early = control.should_training_stop = True
            control.should_save = False
        if step in table.probe_steps | table.stop_steps:
            self._record(step, float(state.epoch or 0), values)
        if self.watched.on_progress and is_first():
            self.watched.on_progress(Progress(step, table.num_steps, {**values, "loss": logs["loss"]}))

    def on_save(  # noqa: D102
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        own = self.state()  # which no rank has before all of them have written their part of the checkpoint
        if is_first():
            checkpoints.seal(folder, run=self.watched.run, state=own)

    @property
    def reached_at_start(self) -> bool:
        """Whether the untrained model is already at the loss to stop at."""
        return self._reached(self.history[0].values)

    def _reached(self, values: Mapping[str, float]) -> bool:
        stop_at = self.watched.stop_at
        return stop_at is not None and values.get(STOP_PROBE, math.inf) <= stop_at

    def _record(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        loss = {"loss": math.fsum(self._losses) / len(self._losses)} if self._losses else {}
        self._losses = []
        self.history.append(HistoryPoint(step, epoch, {**loss, **values}))

    def _measure(self, probes: Mapping[str, Probe]) -> dict[str, float]:
        def measure() -> dict[str, float]:
            with preserved_random_state(), averaged_weights(self._optimizer), _eval_mode(self.model):
                return {name: float(probe()) for name, probe in probes.items()}

        values = from_first(measure)
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name} must be finite, got {value}. {_REMEDY}")
        return values

    def _refuse_divergence(self, step: int, logs: Mapping[str, float]) -> None:
        for name, words in (("loss", "the training loss"), ("grad_norm", "the gradient norm")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise DivergedError(
                    f"{words} must stay finite, got {logs[name]} at step {step} of {self.timetable.num_steps} with "
                    f"learning rate {logs['learning_rate']:.3g}. {_REMEDY}"
                )


_REMEDY = "Lower --train.learning_rate (a tenth is a good next try) or raise --train.warmup_ratio."


@contextlib.contextmanager
def _eval_mode(model: "torch.nn.Module") -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
