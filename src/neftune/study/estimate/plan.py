"""The runs of a recipe without training, the stages that wait for results included: at most so many, at most so dear.

What a later stage does follows from what earlier ones find. Where their results are there, they say; where they are
not, the stage is played with results that are supposed: the dearest nuisance setting wins, a search's best value always
has two neighbours (each round then adds the most), and the dearest noisy arm is confirmed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neftune.config import DataConfig, Recipe, RunConfig
from neftune.records import PlannedRun, RunRecord, StudyResult, content_hash
from neftune.study.check import check_recipe, check_run
from neftune.study.estimate.datasets import examples_at_hand
from neftune.study.identity import code_version, evaluation_fingerprint, model_fingerprint
from neftune.study.plan import Identify, Planner
from neftune.study.stages import Choosing, plan_so_far
from neftune.study.store import Store


@dataclass(frozen=True, slots=True)
class DryPlan:
    """Every run that a study can come to.

    Attributes:
        runs: All of them.
        waves: The same in groups: each waits for the one before.
        done: Ids of those whose result is there.
        notes: What a reader must know.
    """

    runs: tuple[PlannedRun, ...]
    waves: tuple[tuple[PlannedRun, ...], ...]
    done: frozenset[str]
    notes: tuple[str, ...]


def plan_without_training(recipe: Recipe, *, root: Path, choosing: Choosing) -> DryPlan:
    """Every run of a recipe; nothing is trained, downloaded or written.

    Args:
        recipe: The study.
        root: Folder of all runs; may be missing.
        choosing: Says how good the runs are that are done.

    Raises:
        ConfigError, UnknownNameError, DataError: The recipe or its data is wrong.
    """
    check_recipe(recipe)
    absent: set[str] = set()

    def data_fingerprint(data: DataConfig) -> str:
        found = examples_at_hand(data)
        if found is None:
            absent.add(data.source)
            return f"not here {content_hash(data.model_dump(mode='json'))}"
        return found.fingerprint

    identify = Identify(
        data_fingerprint=data_fingerprint,
        model_fingerprint=model_fingerprint,
        evaluation_fingerprint=evaluation_fingerprint,
        code_version=code_version(),
    )
    supposed = _Supposed(recipe, Store(root) if (root / "runs").is_dir() else None, choosing)
    runs = plan_so_far(recipe, Planner(recipe, identify), supposed.results, supposed).planned
    for run in _one_of_each(runs):
        check_run(_without_benchmarks(RunConfig.model_validate(run.config)))
    done = frozenset(run.run_id for run in runs if supposed.is_done(run.run_id))
    notes = [*supposed.notes(), *_uncounted([RunConfig.model_validate(run.config) for run in _one_of_each(runs)])]
    if absent:
        names = ", ".join(sorted(absent))
        notes.append(f"not here: {names}. Lengths are estimated, and which of these runs are done is not known.")
    return DryPlan(runs, tuple(supposed.waves(runs)), done, tuple(notes))


@dataclass
class _Supposed:
    """Results of runs that have none yet, and choices among them that cost the most."""

    recipe: Recipe
    store: Store | None
    choosing: Choosing
    asked: list[dict[str, PlannedRun]] = field(default_factory=list[dict[str, PlannedRun]])
    imagined: set[str] = field(default_factory=set[str])

    def is_done(self, run_id: str) -> bool:
        return self.store is not None and self.store.is_done(run_id)

    def results(self, planned: Sequence[PlannedRun]) -> StudyResult:
        """The real results where all are there, else supposed ones."""
        values = self.recipe.model_dump(mode="json")
        self.asked.append({run.run_id: run for run in planned})
        if self.store is not None and all(map(self.is_done, self.asked[-1])):
            return self.store.result(values, tuple(planned))
        self.imagined |= set(self.asked[-1])
        records = {run.run_id: _record(run) for run in planned}
        return StudyResult(values, tuple(planned), records, {})

    def level(self, record: RunRecord, metric: str) -> float:
        """Higher for what costs more."""
        if record.run_id in self.imagined:
            return _dearness(record.config)
        return self.choosing.level(record, metric)

    def gains(self, result: StudyResult, metric: str) -> Mapping[tuple[str, str], float]:
        """Highest in the middle of a search, else for what costs most."""
        if not any(run.run_id in self.imagined for run in result.planned):
            return self.choosing.gains(result, metric)
        noisy = [run for run in result.planned if run.is_noisy]
        knob = self.recipe.study.search.knob
        if knob is None:
            return {(run.block, run.arm): _dearness(run.config) for run in noisy}
        gains: dict[tuple[str, str], float] = {}
        for block in {run.block for run in noisy}:
            arms = {run.arm: float(run.setting[knob]) for run in noisy if run.block == block}
            ordered = sorted(arms, key=lambda arm: arms[arm])
            gains |= {(block, arm): -abs(place - len(ordered) // 2) for place, arm in enumerate(ordered)}
        return gains

    def waves(self, runs: Sequence[PlannedRun]) -> list[tuple[PlannedRun, ...]]:
        """Runs in groups: what a choice waited for goes before what followed from it."""
        seen: set[str] = set()
        waves: list[tuple[PlannedRun, ...]] = []
        for asked in [*self.asked, {run.run_id: run for run in runs}]:
            wave = tuple(run for name, run in asked.items() if name not in seen)
            seen |= set(asked)
            if wave:
                waves.append(wave)
        return waves

    def notes(self) -> list[str]:
        if not self.imagined:
            return []
        return [
            "later stages depend on what earlier ones find: runs and costs are the most there can be (the dearest "
            "nuisance settings and arms win, every search round adds two values in every block)."
        ]


def _dearness(config: Mapping[str, object]) -> float:
    """Larger for settings that train longer; what else differs between arms costs little."""
    run = RunConfig.model_validate(config)
    length = math.inf if run.data.num_train is None else float(run.data.num_train)
    return run.train.epochs * min(length, 1e9) * run.data.max_length


def _record(run: PlannedRun) -> RunRecord:
    return RunRecord(run.run_id, run.config, (), None, 0.0, {}, {}, {}, {}, {}, "")


def cost_key(run: PlannedRun) -> str:
    """What two runs of equal cost have in common: all settings but the seed and how much noise there is."""
    config = dict(run.config)
    noise = {name: value for name, value in config.pop("noise").items() if name not in ("alpha", "nsr")}
    stops = config.pop("stop_at_train_loss_of") is not None
    asks = config["evaluate"]["variants"] and (run.is_baseline or config["evaluate"]["variants_of"] == "all")
    del config["seed"]
    return json.dumps([config, noise, stops, bool(asks)])


def _one_of_each(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """One run of every cost."""
    return list({cost_key(run): run for run in runs}.values())


def _uncounted(configs: Sequence[RunConfig]) -> list[str]:
    """What the estimate takes for something else, a sentence; empty where nothing is."""
    asked = {
        "train.optimizer (memory is AdamW's)": any(one.train.optimizer != "adamw" for one in configs),
        "train.regularizers (their extra passes)": any(one.train.regularizers for one in configs),
        "train.freeze (everything is taken as trained)": any(one.train.freeze for one in configs),
        "train.world_size (a run is taken to use one processor)": any(one.train.world_size > 1 for one in configs),
        "model.quantization (weights are taken as 16 or 32 bits)": any(one.model.quantization for one in configs),
        "evaluate.benchmarks": any(one.evaluate.benchmarks.tasks for one in configs),
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    return [f"not counted: {'; '.join(names)}."] if names else []


def _without_benchmarks(config: RunConfig) -> RunConfig:
    """Benchmarks may need a download to be checked."""
    plain = config.evaluate.benchmarks.model_copy(update={"tasks": []})
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"benchmarks": plain})})
