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
from neftune.config.run import LATER
from neftune.records import PlannedRun, RunRecord, StudyResult, baseline_runs, content_hash
from neftune.study.check import check_recipe, check_run
from neftune.study.estimate.datasets import examples_at_hand
from neftune.study.estimate.training_cost import OPTIMIZERS, unknown_regularizers
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


FREE = ("learning_rate", "schedule", "warmup_ratio", "min_lr_ratio", "decay_ratio", "weight_decay", "max_grad_norm")
"""Settings of training that cost nothing."""


def cost_key(run: PlannedRun) -> str:
    """What two runs of equal cost have in common: all settings but seed, amount of noise and `FREE`."""
    config = dict(run.config)
    config["train"] = {name: value for name, value in config["train"].items() if name not in FREE}
    noise = {name: value for name, value in config.pop("noise").items() if name not in ("alpha", "nsr")}
    stops = config.pop("stop_at_train_loss_of") is not None
    asks = config["evaluate"]["variants"] and (run.is_baseline or config["evaluate"]["variants_of"] == "all")
    del config["seed"]
    return json.dumps([config, noise, stops, bool(asks)])


def _one_of_each(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """One run of all those that differ in seed and amount of noise alone."""
    free = ({name: run.config["train"].get(name) for name in FREE} for run in runs)
    return list({cost_key(run) + json.dumps(settings): run for run, settings in zip(runs, free, strict=True)}.values())


def _uncounted(configs: Sequence[RunConfig]) -> list[str]:
    """What the estimate leaves out or takes for something else, a sentence; empty where nothing is."""
    own = sorted({name for one in configs for name in unknown_regularizers(one.train)})
    other = sorted({one.train.optimizer for one in configs} - {*OPTIMIZERS})
    asked = {
        f"the states of {', '.join(other)} (taken as AdamW's)": bool(other),
        f"what the regularisers {', '.join(own)} add": bool(own),
        "the exchange of gradients between ranks": any(one.train.world_size > 1 for one in configs),
        "DoRA's norms of whole weights": any(one.model.adapter == "dora" for one in configs),
        "making quantised weights whole again (time)": any(one.model.quantization for one in configs),
        "evaluate.benchmarks": any(one.evaluate.benchmarks.tasks for one in configs),
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    return [f"not counted: {'; '.join(names)}."] if names else []


def judged_runs(runs: Sequence[PlannedRun], part: str) -> list[PlannedRun]:
    """Runs whose answers of a part a model will compare with those of their baseline."""
    configs = {run.run_id: run.config["evaluate"] for run in runs}
    twins = baseline_runs(StudyResult({}, tuple(runs), {}, {}))
    return [
        run
        for run in runs
        if run.run_id in twins and configs[run.run_id]["judge"] == LATER and part in configs[run.run_id]["parts"]
    ]


def _without_benchmarks(config: RunConfig) -> RunConfig:
    """Benchmarks may need a download to be checked."""
    plain = config.evaluate.benchmarks.model_copy(update={"tasks": []})
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"benchmarks": plain})})
