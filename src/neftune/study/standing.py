"""Where a study stands, read from its folder alone: for a terminal that did not start it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from neftune.records import PlannedRun, Stage
from neftune.study.files import read_json
from neftune.study.store import Store

STALE_AFTER = 120.0
"""Seconds without a word after which a run is probably dead; a living one reports twice a second while it trains."""

_STAGES: tuple[Stage, ...] = ("tune", "main", "confirm")
_SAMPLE = 200
"""Finished runs whose duration is read, the latest ones planned: a study of any size is seen in a moment."""


@dataclass(frozen=True, slots=True)
class StageCount:
    """Runs of one stage; those that several arms share count once."""

    stage: Stage
    runs: int
    done: int
    running: int
    failed: int

    @property
    def waiting(self) -> int:
        """Runs not started, or not started again."""
        return self.runs - self.done - self.running - self.failed


@dataclass(frozen=True, slots=True)
class RunningRun:
    """A run that reported and has not ended.

    Attributes:
        run_id, name: Which run.
        doing: What it does ("training", "evaluating", ...).
        step, num_steps: How far that is; None where it has no steps.
        loss: Its training loss at that step, noise on; None where it is not known.
        seconds: Since it started.
        silent: Seconds since it last reported.
    """

    run_id: str
    name: str
    doing: str
    step: int | None
    num_steps: int | None
    loss: float | None
    seconds: float
    silent: float

    @property
    def is_stale(self) -> bool:
        """Whether it has been silent for so long that it is probably dead."""
        return self.silent > STALE_AFTER


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a study stands.

    Attributes:
        name: The study's.
        stages: What is planned, stage by stage.
        to_come: Stages whose runs are not known yet.
        running: Runs at work, those that are probably dead too.
        failures: Reason -> run ids.
        seconds_left: Until the planned runs are done, at the present pace; None where that is not known.
        notes: What a reader of the results must know.
    """

    name: str
    stages: tuple[StageCount, ...]
    to_come: tuple[Stage, ...]
    running: tuple[RunningRun, ...]
    failures: dict[str, tuple[str, ...]]
    seconds_left: float | None
    notes: tuple[str, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done, failures apart."""
        return not self.to_come and all(one.done + one.failed == one.runs for one in self.stages)


def read_standing(store: Store, name: str, *, now: float | None = None) -> Standing:
    """Where a study stands now.

    Args:
        store: The folder of all runs; it is only read.
        name: The study.
        now: The time, in seconds since the epoch.

    Raises:
        ConfigError: There is no such study.
        StoreError: Its plan cannot be read.
    """
    now = time.time() if now is None else now
    plan = store.read_plan(name)
    runs = {run.run_id: run for run in plan.planned}
    done = {run_id for run_id in runs if store.is_done(run_id)}
    progress = {run_id: store.read_progress(run_id) for run_id in runs if run_id not in done}
    running = {run_id: values for run_id, values in progress.items() if _is_running(store, run_id, values)}
    failed = [run_id for run_id in runs if run_id not in done and run_id not in running and store.has_failed(run_id)]
    at_work = tuple(_running_run(runs[run_id], values, now) for run_id, values in running.items())
    stages = tuple(
        _count([run.run_id for run in runs.values() if run.stage == stage], stage, done, running, failed)
        for stage in _STAGES
        if any(run.stage == stage for run in runs.values())
    )
    return Standing(
        name=name,
        stages=stages,
        to_come=plan.to_come,
        running=at_work,
        failures=_reasons(store, failed),
        seconds_left=_seconds_left(store, [one for one in runs if one in done], stages, at_work),
        notes=(*plan.notes, *plan.earlier),
    )


def run_name(run: PlannedRun) -> str:
    """A run as a reader knows it."""
    return f"{run.block + ' ' if run.block else ''}{run.arm} seed={run.seed}"


def _is_running(store: Store, run_id: str, values: dict[str, Any]) -> bool:
    """Whether a run that is not done reported, and later than it failed."""
    if "at" not in values or values.get("stage") == "done":
        return False
    failure = store.run_folder(run_id) / "failure.json"
    return not failure.is_file() or values["at"] > failure.stat().st_mtime


def _running_run(run: PlannedRun, values: dict[str, Any], now: float) -> RunningRun:
    return RunningRun(
        run_id=run.run_id,
        name=run_name(run),
        doing=str(values.get("stage", "starting")),
        step=values.get("step"),
        num_steps=values.get("num_steps"),
        loss=values.get("loss"),
        seconds=max(0.0, now - values.get("started", now)),
        silent=max(0.0, now - values["at"]),
    )


def _count(
    ids: Sequence[str], stage: Stage, done: set[str], running: dict[str, dict[str, Any]], failed: Sequence[str]
) -> StageCount:
    lost = set(failed)
    return StageCount(
        stage=stage,
        runs=len(ids),
        done=sum(run_id in done for run_id in ids),
        running=sum(run_id in running for run_id in ids),
        failed=sum(run_id in lost for run_id in ids),
    )


def _reasons(store: Store, failed: Sequence[str]) -> dict[str, tuple[str, ...]]:
    reasons: dict[str, list[str]] = {}
    for run_id in failed:
        failure = read_json(store.run_folder(run_id) / "failure.json")
        reasons.setdefault(f"{failure['error']}: {failure['message']}", []).append(run_id)
    return {reason: tuple(ids) for reason, ids in reasons.items()}


def _seconds_left(
    store: Store, done: Sequence[str], stages: Sequence[StageCount], at_work: Sequence[RunningRun]
) -> float | None:
    """What waits and what runs at the mean duration of finished runs, over the runs that are alive."""
    alive = [one for one in at_work if not one.is_stale]
    values = [store.read_progress(run_id) for run_id in done[-_SAMPLE:]]
    durations = [one["at"] - one["started"] for one in values if "at" in one and "started" in one]
    if not alive or not durations:
        return None
    each = fmean(durations)
    work = each * (sum(one.waiting for one in stages) + len(at_work) - len(alive))
    work += sum(max(each - one.seconds, 0.0) for one in alive)
    return work / len(alive)
