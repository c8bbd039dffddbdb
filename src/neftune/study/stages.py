"""Which runs of a study are known so far: what later stages do depends on what earlier ones found.

    tune     every arm tries every nuisance setting, on seeds of their own, judged on the held-out part
    main     every arm with its own best, over the study's seeds; a search then adds values around the best, and
             those are tuned and run as well
    confirm  the chosen arm and the arm it is compared with, on fresh seeds, on the untouched test part

The plan is a pure function of the recipe and the results there are, so a study that was killed goes on as if it had
not been. How good a run is on the held-out part is the analysis's to say (`Choosing`).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from neftune.config import Recipe
from neftune.errors import ConfigError, StudyError
from neftune.records import PlannedRun, RunRecord, Stage, StudyResult
from neftune.study.arms import (
    Arm,
    Setting,
    arms_of,
    blocks_of,
    product,
    require_known_arms,
    rounded,
    search_arm,
    setting_name,
)
from neftune.study.plan import Planner

CHOSEN = "chosen noise"
"""The confirmed arm's name where blocks have chosen different ones."""

Results = Callable[[Sequence[PlannedRun]], StudyResult]
"""What there is of some planned runs: records, and failures that are final."""


class Choosing(Protocol):
    """How good runs are on the held-out part."""

    def level(self, record: RunRecord, metric: str) -> float:
        """Mean of a score over a run's held-out examples, turned so that higher is better; NaN where it has none."""
        ...

    def gains(self, result: StudyResult, metric: str) -> Mapping[tuple[str, str], float]:
        """(block, arm) -> how much better than the baseline an arm is, above 0 better; only where it can be said."""
        ...


@dataclass(frozen=True, slots=True)
class SoFar:
    """What is known of a study's plan.

    Attributes:
        planned: Runs, in an order that lets blocks advance side by side.
        to_come: Stages that wait for results.
        notes: What a reader of the results must know, a sentence each.
    """

    planned: tuple[PlannedRun, ...]
    to_come: tuple[Stage, ...] = ()
    notes: tuple[str, ...] = ()


def plan_so_far(recipe: Recipe, planner: Planner, results: Results, choosing: Choosing) -> SoFar:
    """Every run of a study that can be known by now.

    Args:
        recipe: The study.
        planner: Makes its runs.
        results: Reads what there is of them.
        choosing: Says how good runs are.

    Raises:
        ConfigError: The recipe's arms are wrong.
        StudyError: No nuisance setting of a baseline could be run, so that nothing can be compared with it.
    """
    return _Staging(recipe, planner, results, choosing).plan()


@dataclass
class _Staging:
    recipe: Recipe
    planner: Planner
    results: Results
    choosing: Choosing
    arms: dict[str, list[Arm]] = field(default_factory=dict[str, list[Arm]])
    nuisance: dict[tuple[str, str], Setting] = field(default_factory=dict[tuple[str, str], Setting])
    planned: list[PlannedRun] = field(default_factory=list[PlannedRun])
    notes: list[str] = field(default_factory=list[str])

    def plan(self) -> SoFar:
        """All stages, up to the first that waits."""
        study = self.recipe.study
        arms = arms_of(self.recipe)
        if not study.confirm_seeds:
            require_known_arms([control.match for control in study.controls], arms)
        self.blocks = {setting_name(block): block for block in blocks_of(self.recipe)}
        self.arms = {block: list(arms) for block in self.blocks}
        later: tuple[Stage, ...] = ("confirm",) if study.confirm_seeds else ()
        rounds = study.search.refine if study.search.knob else 0
        for left in range(rounds, -1, -1):
            if study.nuisance and not self._tuned():
                return self._so_far("main", *later)
            main = self._main()
            self.planned = [*(run for run in self.planned if run.stage == "tune"), *main]
            if not left and not study.confirm_seeds:
                break
            found = self.results(main)
            if _waiting(found):
                return self._so_far(*(("main",) if left else ()), *later)
            if left:
                self._refine(found)
            else:
                self._confirm(found)
        return self._so_far()

    def _so_far(self, *to_come: Stage) -> SoFar:
        self._check_names()
        return SoFar(tuple(self.planned), to_come, tuple(dict.fromkeys(self.notes)))

    def _tuned(self) -> bool:
        """Plan the tuning runs of the arms there are; whether all are done, and then the best are known."""
        study = self.recipe.study
        settings = product(study.nuisance)
        tune: list[PlannedRun] = []
        for seed in study.tune_seeds:
            for setting in settings:
                tune += [
                    self.planner.run(arm, self.blocks[block], seed, stage="tune", nuisance=setting)
                    for block, arm in self._every_arm()
                ]
        self.planned = [*tune, *(run for run in self.planned if run.stage == "main")]
        found = self.results(tune)
        if _waiting(found):
            return False
        levels = self._levels(found)
        for block, arm in self._every_arm():
            reached = [levels[block, arm.name, setting_name(setting)] for setting in settings]
            self._choose_nuisance(found, block, arm, dict(zip(map(setting_name, settings), reached, strict=True)))
        return True

    def _levels(self, found: StudyResult) -> dict[tuple[str, str, str], float]:
        """(block, arm, nuisance setting) -> mean over the tuning seeds; NaN where a run failed."""
        values: dict[tuple[str, str, str], list[float]] = {}
        for run in found.planned:
            record = found.records.get(run.run_id)
            level = math.nan if record is None else self.choosing.level(record, self.recipe.study.tune_by)
            values.setdefault((run.block, run.arm, setting_name(run.nuisance)), []).append(level)
        return {key: sum(levels) / len(levels) for key, levels in values.items()}

    def _choose_nuisance(self, found: StudyResult, block: str, arm: Arm, levels: Mapping[str, float]) -> None:
        """The setting with the best level; the first of equal ones."""
        known = {name: level for name, level in levels.items() if not math.isnan(level)}
        where = f"{arm.name}{f' in {block}' if block else ''}"
        if known:
            settings = {setting_name(setting): setting for setting in product(self.recipe.study.nuisance)}
            self.nuisance[block, arm.name] = settings[max(known, key=lambda name: known[name])]
            self._note_edges(where, self.nuisance[block, arm.name])
        elif arm.name in {one.against for one in self.arms[block]}:
            raise StudyError(
                f"the {where}, which others are compared with, needs a nuisance setting that runs and has "
                f"{self.recipe.study.tune_by} on the held-out part, got none of {len(levels)}. {_first_failure(found)} "
                "Change study.nuisance or study.tune_by."
            )
        else:
            self.notes.append(f"{where} was left out: every nuisance setting failed. {_first_failure(found)}")
            self.arms[block].remove(arm)

    def _note_edges(self, where: str, chosen: Setting) -> None:
        for knob, value in chosen.items():
            values = self.recipe.study.nuisance[knob]
            numbers = [one for one in values if isinstance(one, float | int) and not isinstance(one, bool)]
            if len(numbers) == len(values) >= 2 and value in (min(numbers), max(numbers)):
                self.notes.append(
                    f"{where}: the best setting, {setting_name({knob: value})}, is at the edge of what was tried for "
                    f"{knob}; a value beyond it may be better."
                )

    def _main(self) -> list[PlannedRun]:
        study = self.recipe.study
        runs = [self._run(arm, block, seed, "main") for seed in study.seeds for block, arm in self._every_arm()]
        if not study.confirm_seeds:
            runs += self._controls(runs, [dict(control.match) for control in study.controls])
        return runs

    def _run(self, arm: Arm, block: str, seed: int, stage: Stage) -> PlannedRun:
        nuisance = self.nuisance.get((block, arm.name), {})
        return self.planner.run(arm, self.blocks[block], seed, stage=stage, nuisance=nuisance)

    def _controls(self, runs: Sequence[PlannedRun], matches: Sequence[Setting]) -> list[PlannedRun]:
        """Control runs, each beside a baseline and a noisy twin of one block and seed."""
        baselines = {(run.block, run.seed): run for run in runs if run.is_baseline}
        made: list[PlannedRun] = []
        for match in matches:
            twins = [run for run in runs if run.is_noisy and (not match or dict(run.setting) == dict(match))]
            made += [self.planner.control(baselines[twin.block, twin.seed], twin) for twin in twins]
        return made

    def _refine(self, found: StudyResult) -> None:
        """Add the values half-way between the best one and its neighbours, block by block."""
        knob = self.recipe.study.search.knob or ""
        gains = self.choosing.gains(found, self.recipe.study.decision.choose_by)
        for block, arms in self.arms.items():
            values = sorted(float(str(arm.setting[knob])) for arm in arms if arm.is_noisy)
            best = self._best(found, gains, [block])
            if best is None:
                continue
            at = values.index(float(str(best.setting[knob])))
            neighbours = values[max(at - 1, 0) : at + 2]
            between = [rounded(math.sqrt(a * b)) for a, b in itertools.pairwise(neighbours)]
            if at in (0, len(values) - 1):
                place = f" in {block}" if block else ""
                self.notes.append(
                    f"the best value of the search{place} so far, {best.name}, is at the end of the range; a value "
                    "beyond it may be better."
                )
            arms += [search_arm(knob, value) for value in between if value not in values]

    def _confirm(self, found: StudyResult) -> None:
        """The chosen arm and what it is compared with, on fresh seeds: chosen per block by a search, else over all."""
        study = self.recipe.study
        gains = self.choosing.gains(found, study.decision.choose_by)
        groups = [[block] for block in self.blocks] if study.search.knob else [list(self.blocks)]
        chosen = {block: self._best(found, gains, group) for group in groups for block in group}
        lost = [block for block, arm in chosen.items() if arm is None]
        if lost:
            self.notes.append(
                f"nothing could be confirmed{f' in {lost[0]}' if lost[0] else ''}: no noisy arm has "
                f"{study.decision.choose_by} with every seed on the held-out part."
            )
            return
        names = {arm.name for arm in chosen.values() if arm}
        confirmed: list[PlannedRun] = []
        for seed in study.confirm_seeds:
            for block, arm in chosen.items():
                assert arm is not None
                confirmed += self._confirmed(arm, block, seed, name=arm.name if len(names) == 1 else CHOSEN)
        self.planned += [*confirmed, *self._controls(confirmed, [dict(one.match) for one in study.controls])]

    def _confirmed(self, arm: Arm, block: str, seed: int, *, name: str) -> Iterator[PlannedRun]:
        partner = next(one for one in self.arms[block] if one.name == arm.against)
        beside = Arm(partner.name, partner.setting, is_baseline=True, is_noisy=False, against=partner.name)
        yield self._run(beside, block, seed, "confirm")
        renamed = Arm(name, arm.setting, is_baseline=False, is_noisy=True, against=partner.name)
        nuisance = self.nuisance.get((block, arm.name), {})
        yield self.planner.run(renamed, self.blocks[block], seed, stage="confirm", nuisance=nuisance)

    def _best(self, found: StudyResult, gains: Mapping[tuple[str, str], float], blocks: Sequence[str]) -> Arm | None:
        """The noisy arm with the largest mean gain over some blocks, of those that have it in all and lost no run."""
        failed = {(run.block, run.arm) for run in found.planned if run.run_id not in found.records}
        entrants: list[tuple[float, Arm]] = []
        for arm in self.arms[blocks[0]]:
            reached = [gains.get((block, arm.name), math.nan) for block in blocks]
            whole = all((block, arm.name) not in failed for block in blocks)
            if arm.is_noisy and whole and not any(map(math.isnan, reached)):
                entrants.append((math.fsum(reached) / len(reached), arm))
        return max(entrants, key=lambda one: one[0])[1] if entrants else None

    def _every_arm(self) -> list[tuple[str, Arm]]:
        """(block, arm), arm by arm, so that blocks advance side by side."""
        longest = max(map(len, self.arms.values()))
        return [
            (block, arms[place]) for place in range(longest) for block, arms in self.arms.items() if place < len(arms)
        ]

    def _check_names(self) -> None:
        labels = [(run.stage, run.block, run.arm, run.seed, setting_name(run.nuisance)) for run in self.planned]
        if len(set(labels)) != len(labels):
            again = sorted({" ".join(map(str, one)) for one in labels if labels.count(one) > 1})
            raise ConfigError(f"arms and blocks need names of their own, got some twice: {again[:3]}.")


def _waiting(found: StudyResult) -> bool:
    """Whether a run is neither done nor finally failed."""
    return any(run.run_id not in found.records and run.run_id not in found.failures for run in found.planned)


def _first_failure(found: StudyResult) -> str:
    return next((f"{one.error}: {one.message}" for one in found.failures.values()), "")
