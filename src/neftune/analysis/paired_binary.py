"""Right or wrong on the same examples, one run against another: McNemar's test and an interval of the difference.

Every example falls into one of four cells. Only the two where the runs disagree tell them apart:

                  baseline right   baseline wrong
    arm right     both             only_arm
    arm wrong     only_baseline    neither

Two runs are one seed of each: what is said here holds for further examples, not for further training runs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from neftune.analysis.statistics import FloatArray
from neftune.errors import DataError

SCORE = "Tango's score interval over examples; one run of each: says nothing about seeds"


@dataclass(frozen=True, slots=True)
class PairedShares:
    """The share of examples that two runs get right, and its paired difference, arm minus baseline.

    Attributes:
        both, only_arm, only_baseline, neither: Examples by who got them right.
        num_dropped: Examples left out because a run has no number for them.
        difference: Share right of the arm minus that of the baseline, in (-1, 1); 0.01 is one point.
        low, high: Ends of its interval.
        confidence: Of the interval.
        p_value: McNemar's test with the mid-p value, two-sided: the one to use.
        p_exact: McNemar's exact test (binomial), which keeps its level in every sample and is conservative.
    """

    both: int
    only_arm: int
    only_baseline: int
    neither: int
    num_dropped: int
    difference: float
    low: float
    high: float
    confidence: float
    p_value: float
    p_exact: float

    @property
    def num_examples(self) -> int:
        """Examples that both runs have."""
        return self.both + self.only_arm + self.only_baseline + self.neither

    @property
    def baseline_share(self) -> float:
        """Share of examples that the baseline gets right."""
        return (self.both + self.only_baseline) / self.num_examples

    @property
    def arm_share(self) -> float:
        """Share of examples that the arm gets right."""
        return (self.both + self.only_arm) / self.num_examples


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two-sided p-values for "the runs are right equally often".

    Attributes:
        mid_p: Half the probability of the table seen is counted; error rates are near the level, seldom above.
        exact: The binomial test.
    """

    mid_p: float
    exact: float


def compare_shares(baseline: npt.ArrayLike, arm: npt.ArrayLike, *, confidence: float = 0.95) -> PairedShares:
    """How much more often the arm is right than the baseline, on the same examples.

    Args:
        baseline: (E,) of 0 and 1; a NaN drops the example.
        arm: The same, of the same examples in the same order.
        confidence: Of the interval, in (0.5, 1).

    Raises:
        DataError: The lengths differ, a score is neither 0 nor 1, or no example is left.
    """
    theirs, ours, num_dropped = _right_or_wrong(baseline, arm)
    only_arm, only_baseline = int((ours > theirs).sum()), int((ours < theirs).sum())
    both, size = int((ours * theirs).sum()), len(ours)
    low, high = score_interval(only_arm, only_baseline, size, confidence=confidence)
    test = mcnemar(only_arm, only_baseline)
    return PairedShares(
        both=both,
        only_arm=only_arm,
        only_baseline=only_baseline,
        neither=size - both - only_arm - only_baseline,
        num_dropped=num_dropped,
        difference=(only_arm - only_baseline) / size,
        low=float(low),
        high=float(high),
        confidence=confidence,
        p_value=test.mid_p,
        p_exact=test.exact,
    )


def mcnemar(only_arm: int, only_baseline: int) -> McNemar:
    """McNemar's test from the two counts of disagreement; both p-values are 1 where the runs never disagree.

    Source: Fagerland, Lydersen, Laake, BMC Medical Research Methodology 13 (2013), 91.
    """
    if min(only_arm, only_baseline) < 0:
        raise DataError(f"counts must be >= 0, got {only_arm} and {only_baseline}.")
    total, fewer = only_arm + only_baseline, min(only_arm, only_baseline)
    if total == 0:
        return McNemar(1.0, 1.0)
    at_most = float(bdtr(fewer, total, 0.5))  # pyright: ignore[reportUnknownArgumentType]
    seen = math.exp(
        math.lgamma(total + 1) - math.lgamma(fewer + 1) - math.lgamma(total - fewer + 1) - total * math.log(2)
    )
    exact = min(1.0, 2 * at_most)
    # An even split is counted once in both tails, so the two-sided mid-p is 1 there.
    return McNemar(1.0 if only_arm == only_baseline else min(1.0, 2 * at_most - seen), exact)


def score_interval(
    only_arm: npt.ArrayLike, only_baseline: npt.ArrayLike, num_examples: int, *, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Ends of Tango's score interval of the paired difference of shares, arm minus baseline.

    It holds the differences that a score test does not reject, never leaves [-1, 1], and has a width also where the
    runs never disagree: about ± 3.8 / num_examples.

    Args:
        only_arm: Examples that only the arm gets right; a number, or an array of them.
        only_baseline: Examples that only the baseline gets right.
        num_examples: E, all examples.
        confidence: In (0.5, 1).

    Source: Tango, Statistics in Medicine 17 (1998), 891-908.
    """
    if not 0.5 < confidence < 1:
        raise DataError(f"confidence must be in (0.5, 1), got {confidence}. Use 0.95.")
    ours, theirs = (np.asarray(count, dtype=np.float64) for count in (only_arm, only_baseline))
    if num_examples < 1 or (ours + theirs > num_examples).any():
        raise DataError(f"the examples on which runs disagree must be among all {num_examples}, got more.")
    critical = NormalDist().inv_cdf((1 + confidence) / 2)
    estimate = (ours - theirs) / num_examples

    def lies_above(difference: FloatArray, level: float) -> npt.NDArray[np.bool_]:
        return score_statistic(ours, theirs, num_examples, difference) > level

    # The statistic falls as the difference grows: large at -1, 0 at the estimate, small at 1.
    low = _bisect(-np.ones_like(estimate), estimate, lambda gap: lies_above(gap, critical))
    high = _bisect(estimate, np.ones_like(estimate), lambda gap: lies_above(gap, -critical))
    return low, high


def score_statistic(
    only_arm: npt.ArrayLike, only_baseline: npt.ArrayLike, num_examples: int, difference: npt.ArrayLike
) -> FloatArray:
    """The standard normal statistic of a paired difference of shares: above 0 where the data lie above it.

    Args:
        only_arm: Examples that only the arm gets right.
        only_baseline: Examples that only the baseline gets right.
        num_examples: E, all examples.
        difference: The difference tested, in [-1, 1]; arrays broadcast.

    Source: Tango, Statistics in Medicine 17 (1998), equations 7 to 10.
    """
    ours, theirs, gap = (np.asarray(value, dtype=np.float64) for value in (only_arm, only_baseline, difference))
    size = float(num_examples)
    # The likeliest share of examples that only the baseline gets right, given the difference: a quadratic's root.
    slope = (2 * size - ours + theirs) * gap - ours - theirs
    root = np.sqrt(np.maximum(0.0, slope**2 + 8 * size * theirs * gap * (1 - gap)))
    share = (root - slope) / (4 * size)
    variance = size * (2 * share + gap * (1 - gap))
    distance = ours - theirs - size * gap
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / np.sqrt(np.maximum(0.0, variance)))


def _right_or_wrong(baseline: npt.ArrayLike, arm: npt.ArrayLike) -> tuple[FloatArray, FloatArray, int]:
    """Both runs' scores of 0 and 1 on the examples that both have, and how many were dropped."""
    theirs, ours = (np.asarray(scores, dtype=np.float64) for scores in (baseline, arm))
    if theirs.ndim != 1 or theirs.shape != ours.shape:
        raise DataError(f"paired scores must be two lists of one length, got {theirs.shape} and {ours.shape}.")
    kept = np.isfinite(theirs) & np.isfinite(ours)
    if not kept.any():
        raise DataError(f"paired shares need an example with two numbers, got none of {len(ours)}.")
    scores = np.stack([theirs[kept], ours[kept]])
    wrong = scores[(scores != 0) & (scores != 1)]
    if wrong.size:
        raise DataError(
            f"paired shares need scores of 0 or 1, got {wrong[0]:g}. Use paired_interval for scores of another kind."
        )
    return scores[0], scores[1], int((~kept).sum())


def _bisect(
    left: FloatArray, right: FloatArray, lies_right: Callable[[FloatArray], npt.NDArray[np.bool_]]
) -> FloatArray:
    for _ in range(60):
        middle = (left + right) / 2
        go = lies_right(middle)
        left, right = np.where(go, middle, left), np.where(go, right, middle)
    return (left + right) / 2
