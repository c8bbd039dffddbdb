"""Which runs are compared with which, and their scores as matrices.

S seeds, E examples. Runs with one seed and one block are a pair; a seed that either arm lacks is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neftune.analysis.statistics import FloatArray
from neftune.errors import DataError
from neftune.records import Answer, PlannedRun, RunRecord, StudyResult


@dataclass(frozen=True, slots=True)
class Missing:
    """A planned run without a result, and why."""

    run_id: str
    arm: str
    block: str
    seed: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """One arm and the arm it is compared with in one block, seed by seed.

    Attributes:
        block: Where they are compared.
        arm: The arm's name.
        is_control: Whether the arm is a control.
        seeds: Seeds that both arms have, in order.
        baseline, runs: Their runs, one a seed.
        judged: What a judge prefers, asked after the runs, one entry a seed: part -> example id -> preference,
            1 the baseline, 2 the arm, NaN unparsed.
        against: Name of the arm it is compared with: the one that lacks its noise alone, or else the baseline.
    """

    block: str
    arm: str
    is_control: bool
    seeds: tuple[int, ...]
    baseline: tuple[RunRecord, ...]
    runs: tuple[RunRecord, ...]
    judged: tuple[Mapping[str, Mapping[str, float]], ...] = ()
    against: str = "baseline"

    def is_judged(self, part: str) -> bool:
        """Whether a judge was asked about this part of every seed."""
        return bool(self.judged) and all(part in one for one in self.judged)

    def parts(self) -> tuple[str, ...]:
        """Parts that every run of the pairing has scores of, in the first run's order."""
        first, *others = [*self.baseline, *self.runs]
        return tuple(part for part in first.scores if all(part in run.scores for run in others))

    def metrics(self, part: str) -> tuple[str, ...]:
        """Metrics of the answers (not of the references) that every run of the pairing has on a part."""
        first, *others = [run.scores[part].values for run in (*self.baseline, *self.runs)]
        shared = [name for name in first if all(name in other for other in others)]
        return tuple(name for name in shared if not name.startswith("reference_"))


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples that all runs of a pairing have on a part.

    Attributes:
        part: The part.
        ids: Their ids.
        num_unmatched: Examples that some run has and some run lacks.
    """

    part: str
    ids: tuple[str, ...]
    num_unmatched: int


def pairings(result: StudyResult) -> tuple[Pairing, ...]:
    """Every arm beside the arm it is compared with, block by block, where at least one seed has both."""
    planned: dict[str, dict[str, list[PlannedRun]]] = {}
    for run in result.planned:
        planned.setdefault(run.block, {}).setdefault(run.arm, []).append(run)
    judged = _judged(result)
    made: list[Pairing] = []
    for block, arms in planned.items():
        baselines = [name for name, runs in arms.items() if runs[0].is_baseline]
        for arm, of_arm in arms.items():
            against = of_arm[0].against if of_arm[0].against in arms else next(iter(baselines), "")
            if of_arm[0].is_baseline or against not in arms:
                continue
            baseline, runs = _done(result, arms[against]), _done(result, of_arm)
            seeds = tuple(seed for seed in baseline if seed in runs)
            if seeds:
                pairs = tuple(baseline[seed] for seed in seeds), tuple(runs[seed] for seed in seeds)
                preferences = tuple(judged.get(run.run_id, {}) for run in pairs[1])
                made.append(
                    Pairing(block, arm, of_arm[0].is_control, seeds, *pairs, judged=preferences, against=against)
                )
    return tuple(made)


def _judged(result: StudyResult) -> dict[str, dict[str, Mapping[str, float]]]:
    """Run id -> part -> what a judge prefers there."""
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for (part, run_id), preferences in result.judged.items():
        found.setdefault(run_id, {})[part] = preferences
    return found


def missing_runs(result: StudyResult) -> tuple[Missing, ...]:
    """Planned runs that have no result, with the error of those that failed."""
    lost: list[Missing] = []
    for run in result.planned:
        if run.run_id not in result.records:
            failure = result.failures.get(run.run_id)
            reason = f"{failure.error}: {failure.message}" if failure else "not run yet"
            lost.append(Missing(run.run_id, run.arm, run.block, run.seed, reason))
    return tuple(lost)


def shared_examples(runs: Sequence[RunRecord], part: str, keep: Callable[[str], bool] | None = None) -> Examples:
    """The examples of a part that every run has, in the first run's order.

    Raises:
        DataError: A run has an example twice, or the runs share none.
    """
    all_ids = [run.scores[part].example_ids for run in runs]
    for ids in all_ids:
        if len(set(ids)) != len(ids):
            raise DataError(f"a part must hold each example once, got {len(ids) - len(set(ids))} repeated in {part!r}.")
    wanted = [[example for example in ids if keep is None or keep(example)] for ids in all_ids]
    common = set(wanted[0]).intersection(*wanted[1:])
    everything = set(wanted[0]).union(*wanted[1:])
    if everything and not common:
        raise DataError(
            f"runs that are compared must answer the same examples, got none in common on {part!r} "
            f"({len(wanted[0])} and {len(wanted[-1])}). Compare runs that were made with the same data settings."
        )
    return Examples(part, tuple(example for example in wanted[0] if example in common), len(everything - common))


def score_matrix(runs: Sequence[RunRecord], examples: Examples, metric: str) -> FloatArray:
    """(S, E) scores of one metric, a run a row."""
    rows: list[list[float]] = []
    for run in runs:
        scores = run.scores[examples.part]
        by_id = dict(zip(scores.example_ids, scores.values[metric], strict=True))
        rows.append([by_id[example] for example in examples.ids])
    return np.array(rows, dtype=np.float64).reshape(len(runs), len(examples.ids))


def answer_matrix(runs: Sequence[RunRecord], examples: Examples, value: Callable[[Answer], float]) -> FloatArray:
    """(S, E) of a number read off each answer; NaN where a run has no answer to an example."""
    rows: list[list[float]] = []
    for run in runs:
        by_id: Mapping[str, Answer] = {answer.example_id: answer for answer in run.answers.get(examples.part, ())}
        rows.append([value(by_id[example]) if example in by_id else np.nan for example in examples.ids])
    return np.array(rows, dtype=np.float64).reshape(len(runs), len(examples.ids))


def _done(result: StudyResult, planned: Sequence[PlannedRun]) -> dict[int, RunRecord]:
    return {run.seed: result.records[run.run_id] for run in planned if run.run_id in result.records}
