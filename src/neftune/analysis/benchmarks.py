"""One benchmark of two models, example by example: McNemar's test, an interval, and how small the difference is."""

from dataclasses import dataclass

import numpy as np

from neftune.analysis.equivalence import Equivalence, seeds_equivalence, shares_equivalence
from neftune.analysis.paired_binary import SCORE, compare_shares
from neftune.analysis.statistics import FloatArray, paired_interval
from neftune.errors import DataError
from neftune.records import Scores


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """What two models' scores on the same examples say.

    Attributes:
        name: The benchmark.
        metric: What is compared.
        baseline: Mean of the baseline.
        arm: Mean of the other.
        difference: Arm minus baseline.
        low, high: Ends of its interval.
        p_value: Two-sided: McNemar's (mid-p) where every score is 0 or 1, else of the paired t.
        method: How interval and p-value were made.
        equivalence: The smallest margin that the difference can be claimed to lie within.
        num_disagree: Examples that one alone got right; None where scores are not 0 or 1.
        num_unpaired: Examples that only one of the two has, or that have no number.
    """

    name: str
    metric: str
    baseline: float
    arm: float
    difference: float
    low: float
    high: float
    p_value: float
    method: str
    equivalence: Equivalence
    num_disagree: int | None
    num_unpaired: int


def compare_benchmark(
    name: str, metric: str, baseline: Scores, arm: Scores, *, confidence: float = 0.95, margin: float | None = None
) -> BenchmarkComparison:
    """The arm against the baseline on the examples that both have.

    Args:
        name: The benchmark, for messages.
        metric: Name in both scores' values.
        baseline: Scores of the one.
        arm: Scores of the other.
        confidence: Of the interval and of the equivalence bound.
        margin: An equivalence margin named before the data, in the metric's unit.

    Raises:
        DataError: The metric is missing, or no example is in both.
    """
    theirs, ours, num_unpaired = _joined(name, metric, baseline, arm)
    if bool(np.isin([theirs, ours], (0.0, 1.0)).all()):
        shares = compare_shares(theirs, ours, confidence=confidence)
        return BenchmarkComparison(
            *(name, metric, shares.baseline_share, shares.arm_share, shares.difference, shares.low, shares.high),
            p_value=shares.p_value,
            method=f"McNemar's test (mid-p); {SCORE}",
            equivalence=shares_equivalence(shares, confidence=confidence, margin=margin),
            num_disagree=shares.only_arm + shares.only_baseline,
            num_unpaired=num_unpaired,
        )
    differences = (ours - theirs)[None, :]
    interval = paired_interval(differences, confidence=confidence)
    return BenchmarkComparison(
        *(name, metric, float(theirs.mean()), float(ours.mean()), interval.estimate, interval.low, interval.high),
        p_value=interval.p_value,
        method=interval.method,
        equivalence=seeds_equivalence(differences, confidence=confidence, margin=margin),
        num_disagree=None,
        num_unpaired=num_unpaired,
    )


def _joined(name: str, metric: str, baseline: Scores, arm: Scores) -> tuple[FloatArray, FloatArray, int]:
    """The metric of both on shared examples, and how many examples are left out."""
    for scores in (baseline, arm):
        if metric not in scores.values:
            raise DataError(f"{name} must have {metric!r} in both results, got {', '.join(scores.values)} in one.")
    ours = dict(zip(arm.example_ids, arm.values[metric], strict=True))
    theirs = dict(zip(baseline.example_ids, baseline.values[metric], strict=True))
    pairs = np.array([(theirs[one], ours[one]) for one in theirs if one in ours], dtype=np.float64).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if not len(pairs):
        raise DataError(
            f"{name} must have examples in common, got {len(theirs)} and {len(ours)} of which none is the same. "
            "Compare results of the same questions."
        )
    return pairs[:, 0], pairs[:, 1], len(set(ours) | set(theirs)) - len(pairs)
