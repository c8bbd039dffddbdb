"""Every arm's paired differences from the study's baseline as tables: what contrasts between arms are made of.

S seeds, E examples, C arms. All arms of a block share its baseline, so it cancels wherever two arms are compared, also
for win rates, whose tables are wins or a jackknife's pseudo-values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neftune.analysis.memorization import VERBATIM, verbatim_shares
from neftune.analysis.metrics import Meaning, meaning_of
from neftune.analysis.pairing import Pairing, score_matrix, shared_examples
from neftune.analysis.preferences import rate_tables
from neftune.analysis.statistics import FloatArray, Interval, interval_from, mean_components, paired_interval
from neftune.records import PlannedRun, StudyResult

WIN_RATES = frozenset({"win_rate", "lc_win_rate", "win_rate_vs_reference", "lc_win_rate_vs_reference"})


@dataclass(frozen=True, slots=True)
class Differences:
    """One arm's differences from the baseline on one metric.

    Attributes:
        values: (S, E); NaN where undefined.
        seeds, example_ids: Its rows and columns.
        baseline_mean: Mean of the baseline, or the rate that a win rate is compared with.
        estimate: Mean of the values, or the fit whose pseudo-values they are.
        method: What the values are; "" for differences themselves.
        num_unmatched: Examples that one of the two sides lacks.
    """

    values: FloatArray
    seeds: tuple[int, ...]
    example_ids: tuple[str, ...]
    baseline_mean: float
    estimate: float
    method: str = ""
    num_unmatched: int = 0


@dataclass(frozen=True, slots=True)
class BlockDifferences:
    """All arms of one block on one metric, on the same seeds and examples.

    Attributes:
        block, part, metric: What is measured where.
        arms: Names; the baseline, whose differences are all 0, is the first.
        values: (C, S, E); NaN where an arm has no number.
        estimates: (C,) of each arm alone.
        baseline_mean: Of the first arm's comparison.
        seeds: The rows.
        method: What the values are; "" for differences themselves.
    """

    block: str
    part: str
    metric: str
    arms: tuple[str, ...]
    values: FloatArray
    estimates: FloatArray
    baseline_mean: float
    seeds: tuple[int, ...]
    method: str = ""

    @property
    def meaning(self) -> Meaning:
        """Unit and direction of the metric."""
        return meaning_of(self.metric, self.part)

    def seeds_of(self, arm: str) -> int:
        """How many seeds an arm has."""
        return int(np.isfinite(self.values[self.arms.index(arm)]).any(axis=1).sum())

    def contrast(self, weights: FloatArray, *, confidence: float) -> Interval | None:
        """The interval of a weighted sum of arms, over the seeds that all arms with a weight have.

        Args:
            weights: (C,).
            confidence: In (0.5, 1).

        Returns:
            None where no seed or no example has all of the arms.
        """
        used = np.flatnonzero(weights)
        table = np.tensordot(weights[used], self.values[used], axes=1)
        table = table[np.isfinite(table).any(axis=1)]
        if not np.isfinite(table).all(axis=0).any():
            return None
        if not self.method or len(table) < len(self.seeds):
            return paired_interval(table, confidence=confidence)
        complete = table[:, np.isfinite(table).all(axis=0)]
        parts, method = mean_components(complete)
        counts = (*complete.shape, table.shape[1] - complete.shape[1])
        estimate = float(weights[used] @ self.estimates[used])
        return interval_from(estimate, parts, confidence=confidence, counts=counts, method=self.method + method)


def study_differences(result: StudyResult, *, part: str, metric: str) -> tuple[BlockDifferences, ...]:
    """Every block's arms on one metric beside the study's baseline; blocks without a comparison are left out.

    Controls are no part of a design and are left out.
    """
    made: list[BlockDifferences] = []
    for block, baseline, pairings in _against_baseline(result):
        found = {pairing.arm: table for pairing in pairings if (table := pair_differences(pairing, part, metric))}
        if found:
            made.append(_stacked((block, part, metric), baseline, found))
    return tuple(made)


def pair_differences(pairing: Pairing, part: str, metric: str) -> Differences | None:
    """One pairing's differences on one metric; None where it was not measured on the part."""
    if part not in pairing.parts():
        return None
    if metric in WIN_RATES:
        table = next((one for one in rate_tables(pairing, part) if one.metric == metric), None)
        if table is None:
            return None
        ids, level, method = table.example_ids, table.baseline, table.method
        return Differences(table.cells, pairing.seeds, ids, level, table.difference, method, table.num_dropped)
    examples = shared_examples((*pairing.baseline, *pairing.runs), part)
    if metric == VERBATIM:
        theirs, ours = verbatim_shares(pairing, part)
    elif metric in pairing.metrics(part):
        theirs, ours = (score_matrix(runs, examples, metric) for runs in (pairing.baseline, pairing.runs))
    else:
        return None
    values = ours - theirs
    defined = np.isfinite(values).all(axis=0)
    if not defined.any():
        return None
    means = float(theirs[:, defined].mean()), float(values[:, defined].mean())
    return Differences(values, pairing.seeds, examples.ids, *means, num_unmatched=examples.num_unmatched)


def _against_baseline(result: StudyResult) -> list[tuple[str, str, list[Pairing]]]:
    """Per block: its name, the baseline's name, and every arm beside that baseline."""
    blocks: dict[str, dict[str, list[PlannedRun]]] = {}
    for run in result.planned:
        if not run.is_control and run.run_id in result.records:
            blocks.setdefault(run.block, {}).setdefault(run.arm, []).append(run)
    judged: dict[str, dict[str, Mapping[str, float]]] = {}
    for (part, run_id), preferences in result.judged.items():
        judged.setdefault(run_id, {})[part] = preferences
    made: list[tuple[str, str, list[Pairing]]] = []
    for block, arms in blocks.items():
        name = next((arm for arm, runs in arms.items() if runs[0].is_baseline), None)
        if name is not None:
            others = (runs for arm, runs in arms.items() if arm != name)
            pairs = [pair for runs in others if (pair := _pairing(result, judged, arms[name], runs))]
            made.append((block, name, pairs))
    return made


def _pairing(
    result: StudyResult,
    judged: Mapping[str, Mapping[str, Mapping[str, float]]],
    baseline: Sequence[PlannedRun],
    runs: Sequence[PlannedRun],
) -> Pairing | None:
    theirs, ours = ({run.seed: run for run in side} for side in (baseline, runs))
    seeds = tuple(seed for seed in theirs if seed in ours)
    if not seeds:
        return None
    first = runs[0]
    # A judge compared each run with its own partner: only preferences over the baseline are on one scale.
    preferences = tuple(judged.get(ours[seed].run_id, {}) for seed in seeds) if first.against == baseline[0].arm else ()
    return Pairing(
        block=first.block,
        arm=first.arm,
        is_control=False,
        seeds=seeds,
        baseline=tuple(result.records[theirs[seed].run_id] for seed in seeds),
        runs=tuple(result.records[ours[seed].run_id] for seed in seeds),
        judged=preferences,
    )


def _stacked(key: tuple[str, str, str], baseline: str, found: Mapping[str, Differences]) -> BlockDifferences:
    """Tables of several arms on one grid of seeds and examples."""
    tables = list(found.values())
    seeds = tuple(dict.fromkeys(seed for table in tables for seed in table.seeds))
    columns = {key: place for place, key in enumerate(dict.fromkeys(i for t in tables for i in t.example_ids))}
    rows = {seed: place for place, seed in enumerate(seeds)}
    values = np.full((len(tables) + 1, len(seeds), len(columns)), np.nan)
    values[0] = 0.0
    for place, table in enumerate(tables, start=1):
        at = np.ix_([rows[seed] for seed in table.seeds], [columns[example] for example in table.example_ids])
        values[place][at] = table.values
    return BlockDifferences(
        *key,
        arms=(baseline, *found),
        values=values,
        estimates=np.array([0.0, *(table.estimate for table in tables)]),
        baseline_mean=tables[0].baseline_mean,
        seeds=seeds,
        method=next((table.method for table in tables if table.method), ""),
    )
