"""The effect of every arm on every metric, with its interval.

    StudyResult -> pairings (arm beside baseline, seed by seed) -> Effect per block, part, arm and metric

Blocks (worlds, models, data sets) are never pooled: they are few, and the difference between two of them says next to
nothing about a third, so an interval over blocks would be either endless or wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neftune.analysis.memorization import GAP, VERBATIM, gap_interval, verbatim_shares
from neftune.analysis.metrics import NO_MEAN, Direction, meaning_of
from neftune.analysis.pairing import Pairing, pairings, score_matrix, shared_examples
from neftune.analysis.preferences import win_rates
from neftune.analysis.statistics import Component, FloatArray, Interval, paired_interval, percentile_bootstrap
from neftune.config import Decision
from neftune.errors import DataError
from neftune.records import StudyResult


@dataclass(frozen=True, slots=True)
class Effect:
    """The paired difference of an arm from the arm it is compared with, mostly the baseline, on one metric.

    Attributes:
        block, part, arm, metric: What it is the effect of, on what.
        baseline_mean, arm_mean: Means over the examples and seeds used; 50 and the win rate for win rates against
            the baseline.
        estimate: arm_mean - baseline_mean.
        low, high: Ends of the interval of the estimate.
        standard_error, p_value: Of the estimate, for an effect of zero.
        seeds: Seeds that are paired.
        num_examples: Examples used, each with every seed.
        num_dropped: Examples left out: absent from a run, or undefined in one.
        unit: Unit of the means and of the estimate.
        direction: Which way is better.
        method: How the interval was made.
        bootstrap: Ends of the paired percentile bootstrap over seeds and examples, beside the interval that decides;
            None for win rates and the gap. It is too narrow at few seeds (docs/statistics.md).
        is_control: Whether the arm is a control.
        components: Where the variance comes from: seeds, then examples beyond seeds; what planning needs.
        against: The arm that it is the difference from.
    """

    block: str
    part: str
    arm: str
    metric: str
    baseline_mean: float
    arm_mean: float
    estimate: float
    low: float
    high: float
    standard_error: float
    p_value: float
    seeds: tuple[int, ...]
    num_examples: int
    num_dropped: int
    unit: str
    direction: Direction
    method: str
    bootstrap: tuple[float, float] | None = None
    is_control: bool = False
    components: tuple[Component, ...] = ()
    against: str = "baseline"

    @property
    def num_seeds(self) -> int:
        """Seeds that are paired."""
        return len(self.seeds)

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def study_effects(result: StudyResult) -> tuple[Effect, ...]:
    """Every effect that a study's finished runs allow, in the order of blocks, arms, parts and metrics.

    A metric that is undefined on every example of a part has no effect there. Win rates are taken on held-out and
    test examples; on training examples the answer that wins is the one that was memorised.

    Raises:
        DataError: Runs that should be compared share no example.
    """
    confidence = decision_of(result).confidence
    return tuple(effect for pairing in pairings(result) for effect in pairing_effects(pairing, confidence=confidence))


def decision_of(result: StudyResult) -> Decision:
    """The rule that the study's recipe states; the default rule where it states none."""
    return Decision.model_validate(result.recipe.get("study", {}).get("decision", {}))


def pairing_effects(
    pairing: Pairing, *, confidence: float, part: str | None = None, metric: str | None = None
) -> Iterator[Effect]:
    """Every effect of one arm in one block, or those on one part and of one metric."""
    for one in (known for known in pairing.parts() if part in (None, known)):
        found = _part_effects(pairing, one, metric, confidence)
        yield from (effect for effect in found if metric in (None, effect.metric))


def _part_effects(pairing: Pairing, part: str, wanted: str | None, confidence: float) -> Iterator[Effect]:
    """The effects on one part; those of metrics that are not wanted may be left out."""
    examples = shared_examples((*pairing.baseline, *pairing.runs), part)
    for metric in (one for one in pairing.metrics(part) if one not in NO_MEAN and wanted in (None, one)):
        baseline = score_matrix(pairing.baseline, examples, metric)
        arm = score_matrix(pairing.runs, examples, metric)
        yield from _mean_effect(
            pairing, part, metric, (baseline, arm), unmatched=examples.num_unmatched, confidence=confidence
        )
    yield from _mean_effect(pairing, part, VERBATIM, verbatim_shares(pairing, part), unmatched=0, confidence=confidence)
    has_rates = part != "train" and (wanted is None or wanted not in pairing.metrics(part))
    for rate in win_rates(pairing, part, confidence=confidence) if has_rates else ():
        yield _effect(pairing, part, rate.metric, (rate.baseline, rate.arm), rate.interval)
    gap = gap_interval(pairing, confidence=confidence) if part == "train" else None
    if gap is not None:
        yield _effect(pairing, part, GAP, gap[:2], gap[2])


def find_effects(
    effects: Sequence[Effect],
    *,
    block: str | None = None,
    part: str | None = None,
    arm: str | None = None,
    metric: str | None = None,
) -> tuple[Effect, ...]:
    """The effects that agree with everything given."""
    wanted = {"block": block, "part": part, "arm": arm, "metric": metric}
    asked = {name: value for name, value in wanted.items() if value is not None}
    return tuple(e for e in effects if all(getattr(e, name) == value for name, value in asked.items()))


def _mean_effect(
    pairing: Pairing,
    part: str,
    metric: str,
    matrices: tuple[FloatArray, FloatArray],
    *,
    unmatched: int,
    confidence: float,
) -> Iterator[Effect]:
    baseline, arm = matrices
    defined = np.isfinite(baseline - arm).all(axis=0)
    if not defined.any():
        return
    interval = paired_interval(arm - baseline, confidence=confidence)
    means = float(baseline[:, defined].mean()), float(arm[:, defined].mean())
    bootstrap = percentile_bootstrap(arm - baseline, rng=0, confidence=confidence)
    yield replace(_effect(pairing, part, metric, means, interval, unmatched=unmatched), bootstrap=bootstrap)


def _effect(
    pairing: Pairing, part: str, metric: str, means: tuple[float, float], interval: Interval, *, unmatched: int = 0
) -> Effect:
    meaning = meaning_of(metric, part)
    return Effect(
        block=pairing.block,
        part=part,
        arm=pairing.arm,
        metric=metric,
        baseline_mean=means[0],
        arm_mean=means[1],
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        standard_error=interval.standard_error,
        p_value=interval.p_value,
        seeds=pairing.seeds,
        num_examples=interval.num_examples,
        num_dropped=interval.num_dropped + unmatched,
        unit=meaning.unit,
        direction=meaning.direction,
        method=interval.method,
        is_control=pairing.is_control,
        components=interval.components,
        against=pairing.against,
    )


def require_effect(effects: Sequence[Effect], *, part: str, metric: str) -> None:
    """Check that some arm has this metric on this part.

    Raises:
        DataError: None has; the message names the metrics there are.
    """
    if not find_effects(effects, part=part, metric=metric):
        known = sorted({effect.metric for effect in effects if effect.part == part})
        raise DataError(
            f"the study's decision needs the metric {metric!r} on the {part} part, got {', '.join(known) or 'none'}. "
            "Change study.decision in the recipe, or evaluate.parts and evaluate.judge so that it is measured."
        )
