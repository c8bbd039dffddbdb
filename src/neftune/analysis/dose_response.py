"""Effect over dose: arms that differ in how much noise they get, with a band that holds for all of them at once.

The band's interval at each of K doses is taken at level (1 - confidence) / K (Bonferroni), each with its own variance
of seeds and examples: it holds together whatever the doses share, and is conservative. Between doses nothing is
claimed.

Which dose is best is a comparison of doses with each other: a dose is left out of those that may be best only where
the best one seen is clearly better than it, one-sided at (1 - confidence) / (number of others). So with the stated
confidence the truly best dose, no noise included, is among those kept (subset selection).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from neftune.analysis.differences import BlockDifferences, study_differences
from neftune.analysis.metrics import Direction
from neftune.analysis.statistics import FloatArray, Interval, critical_value
from neftune.records import PlannedRun, StudyResult

NOISE_KNOBS = ("noise.alpha", "noise.nsr")
MIN_DOSES = 2


@dataclass(frozen=True, slots=True)
class Dose:
    """One dose and what it did.

    Attributes:
        arm: The arm that has it.
        dose: Value of the knob; 0 is the baseline.
        level: Mean of the metric.
        estimate: Difference from the baseline; 0 for the baseline itself.
        low, high: Ends of the interval of this dose alone.
        band_low, band_high: Ends of the band, which holds at all doses together.
        p_value: Two-sided, for no effect of this dose alone; NaN for the baseline.
        noise_to_embedding: Realised ratio, mean over its runs; 0 for the baseline, NaN where unknown.
        num_seeds, num_examples: What it rests on.
        may_be_best: Whether the best dose seen is not clearly better than it.
    """

    arm: str
    dose: float
    level: float
    estimate: float
    low: float
    high: float
    band_low: float
    band_high: float
    p_value: float
    noise_to_embedding: float
    num_seeds: int
    num_examples: int
    may_be_best: bool


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """The doses of one knob in one block, smallest first.

    Attributes:
        block, part, metric: What is measured where.
        knob: The knob that is the dose.
        doses: The baseline, where it is there, and every dose that was run.
        best: The dose with the best level seen; None for a metric without a better direction.
        confidence: Of the band, and of the doses that may be best.
        unit, direction: Of the metric.
    """

    block: str
    part: str
    metric: str
    knob: str
    doses: tuple[Dose, ...]
    best: Dose | None
    confidence: float
    unit: str
    direction: Direction

    @property
    def may_be_best(self) -> tuple[Dose, ...]:
        """Doses that cannot be told apart from the best one seen, that one included; all without a best."""
        return tuple(dose for dose in self.doses if dose.may_be_best)


def dose_knob(result: StudyResult) -> str | None:
    """The one numeric knob in which the arms differ; None where there is none, or another differs too.

    Amounts of noise are a dose whatever they are called; another knob is one where all of its values are numbers.
    """
    arms = {run.arm: run for run in result.planned if not run.is_control}
    values: dict[str, set[str]] = {}
    for run in arms.values():
        for knob, value in run.setting.items():
            values.setdefault(knob, set()).add(repr(_zero_if_off(run, knob, value)))
    varied = [knob for knob, seen in values.items() if len(seen) > 1]
    if len(varied) != 1:
        return None
    knob = varied[0]
    doses = {dose for run in arms.values() if (dose := _dose(run, knob)) is not None}
    return knob if len(doses) > MIN_DOSES and all(_dose(run, knob) is not None for run in arms.values()) else None


def dose_responses(
    result: StudyResult, *, part: str, metric: str, confidence: float = 0.95
) -> tuple[DoseResponse, ...]:
    """The dose-response of one metric, block by block; none where the arms are not doses of one knob.

    Args:
        result: The runs whose arms are compared, of one stage.
        part: Where it is measured.
        metric: Any score, or a win rate.
        confidence: Of every interval and of the band.
    """
    knob = dose_knob(result)
    if knob is None:
        return ()
    plan: dict[str, dict[str, list[PlannedRun]]] = {}
    for run in result.planned:
        plan.setdefault(run.block, {}).setdefault(run.arm, []).append(run)
    found = study_differences(result, part=part, metric=metric)
    made = (_response(result, table, plan[table.block], knob, confidence) for table in found)
    return tuple(one for one in made if len(one.doses) > MIN_DOSES)


def band_ends(interval: Interval, *, confidence: float, num_doses: int) -> tuple[float, float]:
    """Ends of one dose's interval that holds together with those of all others; NaN where it has none."""
    if not interval.components:
        return math.nan, math.nan
    half = critical_value(interval.components, (1 - confidence) / num_doses) * interval.standard_error
    return interval.estimate - half, interval.estimate + half


def best_arms(table: BlockDifferences, *, confidence: float) -> tuple[int | None, frozenset[int]]:
    """The place of the arm with the best mean, and of all that cannot be told apart from it, the baseline included.

    With the stated confidence the truly best arm is among them. Without a better direction there is no best, and all
    are kept.
    """
    places = range(len(table.arms))
    sign = {"higher": 1.0, "lower": -1.0, "neither": 0.0}[table.meaning.direction]
    if not sign:
        return None, frozenset(places)
    best = max(places, key=lambda place: sign * table.estimates[place])
    # One-sided, with every other arm compared to the best.
    level = 2 * (1 - confidence) / (len(table.arms) - 1)
    kept = {best}
    for place in places:
        gap = (
            None
            if place == best
            else table.contrast(_weights(table, {best: sign, place: -sign}), confidence=confidence)
        )
        far = gap is not None and gap.standard_error > 0 and bool(gap.components)
        if gap is None or not far or gap.estimate <= critical_value(gap.components, level) * gap.standard_error:
            kept.add(place)
    return best, frozenset(kept)


def _response(
    result: StudyResult,
    table: BlockDifferences,
    runs: Mapping[str, Sequence[PlannedRun]],
    knob: str,
    confidence: float,
) -> DoseResponse:
    order = sorted(range(len(table.arms)), key=lambda place: _dose_of(runs[table.arms[place]], knob))
    best, kept = best_arms(table, confidence=confidence)
    doses = tuple(
        _dose_at(result, table, place, runs[table.arms[place]], knob, confidence, may_be_best=place in kept)
        for place in order
    )
    return DoseResponse(
        block=table.block,
        part=table.part,
        metric=table.metric,
        knob=knob,
        doses=doses,
        best=None if best is None else doses[order.index(best)],
        confidence=confidence,
        unit=table.meaning.unit,
        direction=table.meaning.direction,
    )


def _dose_at(
    result: StudyResult,
    table: BlockDifferences,
    place: int,
    runs: Sequence[PlannedRun],
    knob: str,
    confidence: float,
    *,
    may_be_best: bool,
) -> Dose:
    records = [result.records[run.run_id] for run in runs if run.run_id in result.records]
    noises = [record.noise.noise_to_embedding for record in records if record.noise is not None]
    ratio = math.fsum(noises) / len(noises) if noises else 0.0 if place == 0 else math.nan
    found = None if place == 0 else table.contrast(_weights(table, {place: 1.0}), confidence=confidence)
    if found is None:
        counts, ends, p_value = table.values.shape[1:], (math.nan if place else 0.0,) * 5, math.nan
    else:
        band = band_ends(found, confidence=confidence, num_doses=len(table.arms) - 1)
        ends = (found.estimate, found.low, found.high, *band)
        counts, p_value = (found.num_seeds, found.num_examples), found.p_value
    return Dose(
        arm=table.arms[place],
        dose=_dose_of(runs, knob),
        level=table.baseline_mean + ends[0],
        estimate=ends[0],
        low=ends[1],
        high=ends[2],
        band_low=ends[3],
        band_high=ends[4],
        p_value=p_value,
        noise_to_embedding=ratio,
        num_seeds=counts[0],
        num_examples=counts[1],
        may_be_best=may_be_best,
    )


def _weights(table: BlockDifferences, by_place: Mapping[int, float]) -> FloatArray:
    weights = np.zeros(len(table.arms))
    for place, weight in by_place.items():
        weights[place] = weight
    return weights


def _zero_if_off(run: PlannedRun, knob: str, value: object) -> object:
    return 0.0 if knob in NOISE_KNOBS and not run.is_noisy else value


def _dose(run: PlannedRun, knob: str) -> float | None:
    value = _zero_if_off(run, knob, run.setting.get(knob))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _dose_of(runs: Sequence[PlannedRun], knob: str) -> float:
    return cast("float", _dose(runs[0], knob))
