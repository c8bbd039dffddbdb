"""Benchmarks of a study: every arm beside the baseline, question by question, seed by seed.

"No worse on facts" is a claim of its own, so each difference has an equivalence bound beside its interval, and the
questions that only one of the two gets right are counted (McNemar's two cells).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from neftune.analysis.effects import decision_of
from neftune.analysis.equivalence import Equivalence, seeds_equivalence
from neftune.analysis.paired_binary import mcnemar
from neftune.analysis.pairing import Pairing, pairings, score_matrix, shared_examples
from neftune.analysis.statistics import FloatArray, Interval, paired_interval
from neftune.evaluation.benchmarks.results import HEADLINE
from neftune.records import RunRecord, StudyResult


@dataclass(frozen=True, slots=True)
class BenchmarkEffect:
    """What the noise did to one benchmark.

    Attributes:
        block, arm, benchmark, metric: What it is the effect of, on what.
        is_control: Whether the arm is a control.
        baseline, mean: Means of the baseline and of the arm over seeds and questions.
        interval: Of the difference, for further seeds and questions; of one seed it is over questions alone.
        equivalence: The smallest margin that the difference can be claimed to lie within.
        only_arm, only_baseline: Questions that one alone gets right, summed over seeds; None where a score is not
            0 or 1.
        mcnemar_p: McNemar's mid-p of one seed; None for several, whose questions are not independent.
    """

    block: str
    arm: str
    benchmark: str
    metric: str
    is_control: bool
    baseline: float
    mean: float
    interval: Interval
    equivalence: Equivalence
    only_arm: int | None
    only_baseline: int | None
    mcnemar_p: float | None


def benchmark_effects(result: StudyResult) -> tuple[BenchmarkEffect, ...]:
    """Every arm's difference from the baseline on every benchmark's headline metric, in the order of the plan.

    Raises:
        DataError: Runs that should be compared share no question.
    """
    confidence = decision_of(result).confidence
    return tuple(effect for pairing in pairings(result) for effect in _of_pairing(pairing, confidence=confidence))


def benchmark_parts(runs: tuple[RunRecord, ...]) -> tuple[str, ...]:
    """Parts that have scores and no answers: benchmarks."""
    return tuple(part for part in runs[0].scores if all(part in one.scores and part not in one.answers for one in runs))


def headline_metric(part: str, metrics: tuple[str, ...]) -> str:
    """The one metric that stands for a benchmark: the leaderboard's, else the first."""
    named = HEADLINE.get(part, "")
    return named if named in metrics else metrics[0]


def _of_pairing(pairing: Pairing, *, confidence: float) -> Iterator[BenchmarkEffect]:
    both = (*pairing.baseline, *pairing.runs)
    for part in benchmark_parts(both):
        metrics = pairing.metrics(part)
        if not metrics:
            continue
        metric, examples = headline_metric(part, metrics), shared_examples(both, part)
        theirs, ours = (score_matrix(runs, examples, metric) for runs in (pairing.baseline, pairing.runs))
        defined = np.isfinite(theirs + ours).all(axis=0)
        if defined.any():
            yield _effect(pairing, part, metric, (theirs[:, defined], ours[:, defined]), confidence=confidence)


def _effect(
    pairing: Pairing, part: str, metric: str, matrices: tuple[FloatArray, FloatArray], *, confidence: float
) -> BenchmarkEffect:
    theirs, ours = matrices
    is_share = bool(np.isin(theirs, (0, 1)).all() and np.isin(ours, (0, 1)).all())
    only_arm, only_baseline = (int((ours > theirs).sum()), int((ours < theirs).sum())) if is_share else (None, None)
    one_seed = is_share and len(theirs) == 1
    return BenchmarkEffect(
        block=pairing.block,
        arm=pairing.arm,
        benchmark=part,
        metric=metric,
        is_control=pairing.is_control,
        baseline=float(theirs.mean()),
        mean=float(ours.mean()),
        interval=paired_interval(ours - theirs, confidence=confidence),
        equivalence=seeds_equivalence(ours - theirs, confidence=confidence, is_share=is_share),
        only_arm=only_arm,
        only_baseline=only_baseline,
        mcnemar_p=mcnemar(only_arm or 0, only_baseline or 0).mid_p if one_seed else None,
    )
