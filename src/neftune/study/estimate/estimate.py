"""A study's runs, tokens, time, memory and disk, before anything starts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neftune.config import Recipe, RunConfig
from neftune.records import PlannedRun
from neftune.study.estimate.calibration import calibrate
from neftune.study.estimate.compute import Work, run_work, seconds_on
from neftune.study.estimate.disk import Disk, run_disk
from neftune.study.estimate.evidence import Measured, earlier_runs, measured
from neftune.study.estimate.machine import Machine
from neftune.study.estimate.memory import Memory, run_memory, what_fits
from neftune.study.estimate.plan import cost_key, judged_runs, plan_without_training
from neftune.study.estimate.schedule import wall_clock
from neftune.study.estimate.shapes import ModelShape, model_shape
from neftune.study.estimate.tokens import Tokens, run_tokens
from neftune.study.stages import Choosing

JUDGED_PART = "test"
"""What `neftune judge --study` judges where no --part is named."""


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """One run's cost; the runs of a kind differ in nothing that costs.

    Attributes:
        config: One of them.
        shape, tokens, work, memory, disk: See their classes.
        seconds: By stage; empty where nothing is known of the machine's speed.
        evidence: What the seconds rest on.
        fits: Whether a processor's memory is enough.
        remedies: Settings with which it would be.
        stage: Of the study: "tune", "main" or "confirm".
    """

    config: RunConfig
    shape: ModelShape
    tokens: Tokens
    work: Work
    memory: Memory
    disk: Disk
    seconds: Mapping[str, float]
    evidence: str
    fits: bool
    remedies: Sequence[str] = ()
    stage: str = "main"

    @property
    def total_seconds(self) -> float:
        """Of one run; NaN where nothing is known."""
        return sum(self.seconds.values()) if self.seconds else float("nan")


@dataclass(frozen=True, slots=True)
class StudyEstimate:
    """A study's cost.

    Attributes:
        name: The study's.
        machine: Where it would run.
        stages: Runs by stage; of a stage to come, at most.
        done: Runs whose result is there already.
        kinds: (runs to do, one of them) for every kind of run, in the order of the plan.
        slots: Processes at a time; a run takes as many as it has ranks.
        wall_seconds: Until the last run is done; NaN where nothing is known.
        wall_range: (share of the peak, seconds until the last run is done) at two thirds and four thirds of the share
            that is assumed; empty where nothing is assumed.
        notes: What a reader must know.
    """

    name: str
    machine: Machine
    stages: Mapping[str, int]
    done: int
    kinds: Sequence[tuple[int, RunEstimate]]
    slots: int
    wall_seconds: float
    wall_range: Sequence[tuple[float, float]] = ()
    notes: Sequence[str] = field(default_factory=list[str])

    @property
    def runs(self) -> int:
        """Runs to do."""
        return sum(number for number, _ in self.kinds)

    def total(self, quantity: str) -> float:
        """The sum over runs of a quantity of their work, or of "seconds" (of every processor), "record" and "model"."""
        return sum(number * _quantity(one, quantity) for number, one in self.kinds)

    @property
    def disk_peak(self) -> float:
        """Bytes when the study is done, and the checkpoints of the runs in flight."""
        checkpoints = max((one.disk.checkpoints for _, one in self.kinds), default=0)
        return self.total("record") + self.total("model") + min(self.slots, self.runs) * checkpoints


def estimate_study(
    recipe: Recipe, *, root: Path, machine: Machine, choosing: Choosing, tokens_per_example: float | None = None
) -> StudyEstimate:
    """What is left to do of a study, and what it takes.

    Args:
        recipe: The study.
        root: Folder of all runs; what is done there is not counted, and tells how fast this machine is.
        machine: Where it would run.
        choosing: Says how good finished runs are, on which later stages depend (`neftune.analysis.choosing.HeldOut`).
        tokens_per_example: Mean length to take in place of the data's.

    Raises:
        ConfigError, UnknownNameError, DataError, ModelError: The recipe, its data or its model is wrong.
    """
    plan = plan_without_training(recipe, root=root, choosing=choosing)
    earlier = earlier_runs(root) if machine.one is None else []
    left = [run for run in plan.runs if run.run_id not in plan.done]
    kinds: dict[str, RunEstimate] = {}
    counts: Counter[str] = Counter()
    of_run: dict[str, str] = {}
    for run in left:
        key = run.stage + cost_key(run)
        of_run[run.run_id] = key
        counts[key] += 1
        if key not in kinds:
            config = RunConfig.model_validate(run.config)
            one = estimate_run(config, machine, earlier, tokens_per_example=tokens_per_example)
            kinds[key] = replace(one, stage=run.stage)
    slots = machine.processors

    def wall(seconds: Mapping[str, float]) -> float:
        each = {name: seconds[kind] for name, kind in of_run.items()}
        takes = {name: kinds[kind].work.ranks for name, kind in of_run.items()}
        waves = ([run for run in wave if run.run_id in each] for wave in plan.waves)
        return sum(wall_clock(wave, each, slots=slots, takes=takes) for wave in waves)

    return StudyEstimate(
        name=recipe.name,
        machine=machine,
        stages=Counter(run.stage for run in plan.runs),
        done=len(plan.done),
        kinds=[(counts[key], one) for key, one in kinds.items()],
        slots=slots,
        wall_seconds=wall({kind: one.total_seconds for kind, one in kinds.items()}),
        wall_range=[
            (share, wall({kind: sum(_at(one, machine, share).values()) for kind, one in kinds.items()}))
            for share in _shares(machine)
        ],
        notes=[*plan.notes, *_judging(plan.runs, of_run, kinds)],
    )


def estimate_run(
    config: RunConfig,
    machine: Machine,
    earlier: Sequence[Mapping[str, Any]] = (),
    *,
    tokens_per_example: float | None = None,
) -> RunEstimate:
    """One run's cost on a machine."""
    shape = model_shape(config.model, config.data, config.train.freeze)
    tokens = run_tokens(config, vocabulary=shape.vocabulary, tokens_per_example=tokens_per_example)
    work = run_work(config, shape, tokens)
    on_gpu = machine.one is not None
    memory = run_memory(config, shape, tokens, on_gpu=on_gpu)
    fits = memory.fits(machine.memory)
    seconds, evidence = _seconds(config, shape, tokens, work, machine, measured(config, earlier))
    remedies = () if fits else what_fits(config, tokens, capacity=machine.memory, on_gpu=on_gpu)
    return RunEstimate(
        config, shape, tokens, work, memory, run_disk(config, shape, tokens), seconds, evidence, fits, remedies
    )


def _seconds(
    config: RunConfig, shape: ModelShape, tokens: Tokens, work: Work, machine: Machine, before: Measured | None
) -> tuple[dict[str, float], str]:
    """Seconds by stage with the best evidence there is, and which that is."""
    if machine.one is not None:
        share = machine.utilisation
        found = seconds_on(machine.one, shape, work, dtype=config.model.dtype, utilisation=share)
        return found, f"assumed: {share:.0%} of the peak while training, not measured"
    if before is not None:
        found = {
            "loading": before.loading_seconds,
            "training": before.train_seconds * work.train_tokens,
            "evaluation": before.evaluation_seconds * work.answers,
            "benchmarks": before.benchmark_seconds,
        }
        return found, f"measured: {before.runs} earlier runs of this kind on this machine"
    speed = calibrate(config, shape, work, tokens)
    if speed is None:
        return {}, "unknown: too large to be measured here; name --hardware"
    return speed.seconds(work), "measured: a few steps of this model on this machine, random weights"


def _judging(runs: Sequence[PlannedRun], of_run: Mapping[str, str], kinds: Mapping[str, RunEstimate]) -> list[str]:
    """That a model judges later, and how often; of runs that are done as of those to do."""
    judged = judged_runs(runs, JUDGED_PART)
    if not judged:
        return []
    known = {run.run_id: kinds[of_run[run.run_id]] for run in judged if run.run_id in of_run}
    typical = next(iter(known.values()), None)
    asks = sum(_prompts(known.get(run.run_id, typical)) for run in judged)
    number = f", at most {asks:,} comparisons," if asks else ""
    return [
        f"not counted: what the judge costs. It compares {len(judged):,} runs with their baseline on the "
        f"{JUDGED_PART} part{number} once the runs are done; `neftune judge --study NAME --dry-run` says its tokens, "
        "and with --price-prompt and --price-completion its price."
    ]


def _prompts(one: RunEstimate | None) -> int:
    return 0 if one is None else len(one.tokens.prompts.get(JUDGED_PART, ()))


def _shares(machine: Machine) -> tuple[float, ...]:
    """Shares of the peak around the one that is assumed."""
    return () if machine.one is None else (machine.utilisation * 2 / 3, min(1.0, machine.utilisation * 4 / 3))


def _at(one: RunEstimate, machine: Machine, share: float) -> dict[str, float]:
    assert machine.one is not None
    return seconds_on(machine.one, one.shape, one.work, dtype=one.config.model.dtype, utilisation=share)


def _quantity(one: RunEstimate, quantity: str) -> float:
    if quantity == "seconds":
        return one.total_seconds * one.work.ranks
    return getattr(one.disk if quantity in ("record", "model") else one.work, quantity)
