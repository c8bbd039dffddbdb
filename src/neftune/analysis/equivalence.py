"""How near to no difference: the smallest margin within which a difference can be claimed to lie.

A test that finds no difference shows nothing: the sample may be small. Two one-sided tests turn it round. To reject
both "below -margin" and "above +margin", each at level 1 - confidence, shows that the difference lies within
± margin. That is so exactly where the interval of confidence 2 · confidence - 1 (90% for 95%) lies within ± margin, so
the smallest margin that can be claimed, the bound, is that interval's end farther from zero. The bound is itself
a 95% statement (|difference| <= bound); it need not be named before the data are seen, a margin must.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy.typing as npt

from neftune.analysis.paired_binary import PairedShares, score_interval, score_statistic
from neftune.analysis.statistics import (
    Component,
    drop_undefined,
    interval_from,
    mean_components,
    p_value_at,
)
from neftune.errors import DataError


@dataclass(frozen=True, slots=True)
class Equivalence:
    """What is known about how small a difference is.

    Attributes:
        estimate: The difference, arm minus baseline.
        low, high: Ends of the interval of confidence 2 · confidence - 1 that the bound is read off.
        bound: Smallest margin that can be claimed: with ``confidence`` the difference lies within ± bound. NaN where
            the data show no variance and say nothing about how large it is.
        confidence: Of the bound.
        num_seeds, num_examples: What it rests on; one seed says nothing about another training run.
        margin: The margin asked about, or None.
        p_value: Of the two one-sided tests against the margin; None without a margin.
    """

    estimate: float
    low: float
    high: float
    bound: float
    confidence: float
    num_seeds: int
    num_examples: int
    margin: float | None = None
    p_value: float | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the difference is shown to lie within the margin; False where none was asked about."""
        return self.margin is not None and self.bound <= self.margin

    @property
    def is_no_worse(self) -> bool:
        """Whether the difference is shown to lie above -margin (non-inferiority, where higher is better)."""
        return self.margin is not None and self.low >= -self.margin


def shares_equivalence(shares: PairedShares, *, confidence: float = 0.95, margin: float | None = None) -> Equivalence:
    """How small the difference of two runs' shares right is, over examples (Tango's test, made for this question).

    Args:
        shares: `compare_shares` of the two runs.
        confidence: Of the bound, in (0.75, 1).
        margin: A margin named before the data, as a share (0.01 is one point).
    """
    _check(confidence, margin)
    return _of_counts((shares.only_arm, shares.only_baseline, shares.num_examples), confidence, margin)


def _of_counts(counts: tuple[int, int, int], confidence: float, margin: float | None) -> Equivalence:
    low, high = (float(end) for end in score_interval(*counts, confidence=2 * confidence - 1))
    p_value = None
    if margin is not None:
        above, below = (float(score_statistic(*counts, side)) for side in (-margin, margin))
        p_value = max(NormalDist().cdf(-above), NormalDist().cdf(below))
    estimate, bound = (counts[0] - counts[1]) / counts[2], max(abs(low), abs(high))
    return Equivalence(estimate, low, high, bound, confidence, 1, counts[2], margin, p_value)


def seeds_equivalence(
    differences: npt.ArrayLike, *, confidence: float = 0.95, margin: float | None = None, is_share: bool = False
) -> Equivalence:
    """How small the mean of paired differences is, for further seeds and examples.

    Args:
        differences: (S, E) arm minus baseline; (S, 1) for one number a seed. NaNs drop the example.
        confidence: Of the bound, in (0.75, 1).
        margin: A margin named before the data, in the differences' unit.
        is_share: Whether scores are 0 or 1. Then differences that are all equal still give a bound, over examples
            alone; of other scores nothing can be said, and the bound is NaN.
    """
    _check(confidence, margin)
    complete, num_dropped = drop_undefined(differences)
    seeds, examples = complete.shape
    parts, method = mean_components(complete)
    estimate = float(complete.mean())
    interval = interval_from(
        estimate, parts, confidence=2 * confidence - 1, counts=(seeds, examples, num_dropped), method=method
    )
    if interval.standard_error == 0:
        return _without_variance(estimate, (seeds, examples), confidence, margin, is_share=is_share)
    p_value = None if margin is None else _two_tests(estimate, parts, margin)
    bound = max(abs(interval.low), abs(interval.high))
    return Equivalence(estimate, interval.low, interval.high, bound, confidence, seeds, examples, margin, p_value)


def _two_tests(estimate: float, parts: tuple[Component, ...], margin: float) -> float:
    def not_above(distance: float) -> float:
        two_sided = p_value_at(abs(distance), parts)
        return two_sided / 2 if distance > 0 else 1 - two_sided / 2

    return max(not_above(estimate + margin), not_above(margin - estimate))


def _without_variance(
    estimate: float, counts: tuple[int, int], confidence: float, margin: float | None, *, is_share: bool
) -> Equivalence:
    seeds, examples = counts
    if not is_share or abs(estimate) not in (0.0, 1.0):
        nothing = math.nan
        return Equivalence(estimate, nothing, nothing, nothing, confidence, seeds, examples, margin, None)
    ours, theirs = (examples if estimate > 0 else 0), (examples if estimate < 0 else 0)
    return replace(_of_counts((ours, theirs, examples), confidence, margin), num_seeds=seeds)


def _check(confidence: float, margin: float | None) -> None:
    if not 0.75 < confidence < 1:
        raise DataError(f"the confidence of an equivalence bound must be in (0.75, 1), got {confidence}. Use 0.95.")
    if margin is not None and not margin > 0:
        raise DataError(f"an equivalence margin must be above 0, got {margin}.")
