"""Win rates of arms as paired effects: raw and length-controlled, against the baseline and the references.

Preferences come from the judge's quality of each answer; equal quality is a draw. They are taken on open-ended
examples where the data say which those are (tag half = "open"): a closed question has one right answer, so that
length control has nothing to control and most pairs draw. Lengths are in characters, as AlpacaEval's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from neftune.analysis.metrics import FROM_PREFERENCES
from neftune.analysis.pairing import Examples, Pairing, answer_matrix, score_matrix, shared_examples
from neftune.analysis.statistics import (
    FloatArray,
    Interval,
    interval_from,
    jackknife_cells,
    mean_components,
)
from neftune.evaluation.length_control import length_controlled_fits
from neftune.records import RunRecord

EVEN = 50.0
"""Win rate of two equal arms, in percent."""

JACKKNIFED = "jackknife of refits, "
_CHUNK_CELLS = 2_000_000


@dataclass(frozen=True, slots=True)
class Contest:
    """Qualities and lengths of two sides on the same examples, each (S, E), complete.

    Attributes:
        preferences: 1 where the other side wins, 2 where ours does, 1.5 for a draw.
        extra_lengths: Our length minus theirs, in characters.
    """

    preferences: FloatArray
    extra_lengths: FloatArray

    @property
    def never_equal(self) -> bool:
        """Whether our answers are all longer, or all shorter: equal length was never seen, so no fit can say it."""
        return bool((self.extra_lengths > 0).all() or (self.extra_lengths < 0).all())

    def raw(self) -> FloatArray:
        """(S, E) wins in percent."""
        return 100 * (self.preferences - 1)

    def length_controlled(self, weights: FloatArray) -> FloatArray:
        """(R,) win rates in percent at equal length, under each of (R, S, E) weights of 0 or 1."""
        rows = max(1, _CHUNK_CELLS // self.preferences.size)
        chunks = [weights[start : start + rows] for start in range(0, len(weights), rows)]
        flat = self.extra_lengths.reshape(-1)
        return np.concatenate(
            [
                length_controlled_fits(np.where(chunk > 0, self.preferences, np.nan).reshape(len(chunk), -1), flat)
                for chunk in chunks
            ]
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """A win rate's interval beside the two rates that it compares, all in percent."""

    metric: str
    baseline: float
    arm: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class RateTable:
    """A win rate as the table whose mean it is, in percent.

    Attributes:
        metric: Which rate.
        baseline: The rate that it is compared with: 50, or the baseline's own against the references.
        difference: The arm's rate minus the baseline's, fitted on the whole table.
        cells: (S, E) whose mean is the difference: wins, or pseudo-values of refits.
        example_ids: The examples, complete in every run.
        num_dropped: Examples left out.
        method: What the cells are; "" for wins themselves.
    """

    metric: str
    baseline: float
    difference: float
    cells: FloatArray
    example_ids: tuple[str, ...]
    num_dropped: int
    method: str = ""


def win_rates(pairing: Pairing, part: str, *, confidence: float) -> tuple[Rate, ...]:
    """Win rates of an arm that the judge's scores allow on a part; none without a judge.

    Against the baseline the interval is of the rate minus 50; against the references, of the arm's rate minus the
    baseline's.
    """
    return tuple(_rate(table, confidence=confidence) for table in rate_tables(pairing, part))


def rate_tables(pairing: Pairing, part: str) -> tuple[RateTable, ...]:
    """The tables that the win rates of an arm are means of; none without a judge."""
    if pairing.is_judged(part):
        return _judged(pairing, part)
    if "quality" not in pairing.metrics(part):
        return ()
    both = (*pairing.baseline, *pairing.runs)
    examples = shared_examples(both, part, keep=_is_open(both))
    ours, theirs = _Side.of(pairing.runs, examples), _Side.of(pairing.baseline, examples)
    tables = _against_baseline(ours, theirs, examples)
    if all("reference_quality" in run.scores[part].values for run in both):
        reference = _Side.of_reference(pairing.baseline, examples)
        tables += _against_reference(ours, theirs, reference, examples)
    return tables


@dataclass(frozen=True, slots=True)
class _Side:
    quality: FloatArray
    lengths: FloatArray

    @classmethod
    def of(cls, runs: tuple[RunRecord, ...], examples: Examples) -> "_Side":
        lengths = answer_matrix(runs, examples, lambda answer: float(len(answer.text)))
        return cls(score_matrix(runs, examples, "quality"), lengths)

    @classmethod
    def of_reference(cls, runs: tuple[RunRecord, ...], examples: Examples) -> "_Side":
        lengths = answer_matrix(runs, examples, lambda answer: float(len(answer.reference)))
        return cls(score_matrix(runs, examples, "reference_quality"), lengths)


def _is_open(runs: tuple[RunRecord, ...]) -> Callable[[str], bool]:
    tags: dict[str, Mapping[str, str]] = {}
    for run in runs:
        tags.update(run.tags)
    has_halves = any("half" in tag for tag in tags.values())
    return lambda example: not has_halves or tags.get(example, {}).get("half") == "open"


def _contests(sides: tuple[tuple[_Side, _Side], ...]) -> tuple[tuple[Contest, ...], npt.NDArray[np.bool_]] | None:
    """Contests on the examples that are complete in all of them, and which those are; None if none is."""
    stacked = np.concatenate([x for pair in sides for side in pair for x in (side.quality, side.lengths)])
    complete = np.asarray(np.isfinite(stacked).all(axis=0))
    if not complete.any():
        return None
    made: list[Contest] = []
    for ours, theirs in sides:
        preferences = 1.5 + 0.5 * np.sign(ours.quality - theirs.quality)[:, complete]
        made.append(Contest(preferences, (ours.lengths - theirs.lengths)[:, complete]))
    return tuple(made), complete


def _judged(pairing: Pairing, part: str) -> tuple[RateTable, ...]:
    """Win rates against the baseline by a judge that was asked after the runs; a draw of 0 is one of 1.5."""
    examples = shared_examples((*pairing.baseline, *pairing.runs), part)
    preferences = np.array([[one[part].get(key, np.nan) for key in examples.ids] for one in pairing.judged])
    preferences = np.where(preferences == 0, 1.5, preferences)
    ours, theirs = (
        answer_matrix(runs, examples, lambda answer: float(len(answer.text)))
        for runs in (pairing.runs, pairing.baseline)
    )
    complete = np.asarray(np.isfinite(preferences + ours + theirs).all(axis=0))
    if not complete.any():
        return ()
    contest = Contest(preferences[:, complete], (ours - theirs)[:, complete])
    return _contest_tables(contest, examples, complete)


def _against_baseline(ours: _Side, theirs: _Side, examples: Examples) -> tuple[RateTable, ...]:
    found = _contests(((ours, theirs),))
    if found is None:
        return ()
    (contest,), complete = found
    return _contest_tables(contest, examples, complete)


def _contest_tables(contest: Contest, examples: Examples, complete: npt.NDArray[np.bool_]) -> tuple[RateTable, ...]:
    """Raw and length-controlled win rate of one contest against the baseline."""
    raw = contest.raw() - EVEN
    kept = _kept(examples, complete)
    tables = [RateTable("win_rate", EVEN, float(raw.mean()), raw, *kept)]
    controlled = (
        None
        if contest.never_equal
        else _jackknifed(lambda weights: contest.length_controlled(weights) - EVEN, raw.shape)
    )
    if controlled is not None:
        tables.append(RateTable("lc_win_rate", EVEN, *controlled, *kept, JACKKNIFED))
    return tuple(tables)


def _against_reference(ours: _Side, theirs: _Side, reference: _Side, examples: Examples) -> tuple[RateTable, ...]:
    found = _contests(((ours, reference), (theirs, reference)))
    if found is None:
        return ()
    (arm, baseline), complete = found
    raw = arm.raw() - baseline.raw()
    kept = _kept(examples, complete)
    tables = [RateTable("win_rate_vs_reference", float(baseline.raw().mean()), float(raw.mean()), raw, *kept)]
    controlled = (
        None
        if arm.never_equal or baseline.never_equal
        else _jackknifed(
            lambda weights: arm.length_controlled(weights) - baseline.length_controlled(weights), raw.shape
        )
    )
    if controlled is not None:
        level = float(baseline.length_controlled(np.ones((1, *raw.shape)))[0])
        tables.append(RateTable("lc_win_rate_vs_reference", level, *controlled, *kept, JACKKNIFED))
    return tuple(tables)


def _kept(examples: Examples, complete: npt.NDArray[np.bool_]) -> tuple[tuple[str, ...], int]:
    ids = tuple(example for example, kept in zip(examples.ids, complete, strict=True) if kept)
    return ids, len(examples.ids) - len(ids)


def _jackknifed(
    statistic: Callable[[FloatArray], FloatArray], shape: tuple[int, ...]
) -> tuple[float, FloatArray] | None:
    """A statistic of refits with its pseudo-values; None where length and arm cannot be told apart."""
    seeds, examples = shape
    if examples < 2:
        return None
    full, cells = jackknife_cells(statistic, num_seeds=seeds, num_examples=examples)
    return (full, cells) if np.isfinite(cells).all() else None


def _rate(table: RateTable, *, confidence: float) -> Rate:
    """A rate whose interval stays within what is possible."""
    parts, method = mean_components(table.cells)
    counts = (*table.cells.shape, table.num_dropped)
    interval = interval_from(
        table.difference, parts, confidence=confidence, counts=counts, method=table.method + method
    )
    bound = EVEN if table.metric in FROM_PREFERENCES else 100.0
    bounded = replace(interval, low=max(interval.low, -bound), high=min(interval.high, bound))
    return Rate(table.metric, table.baseline, table.baseline + interval.estimate, bounded)
