"""Main effects and interactions of a study whose arms cross several knobs.

A factor's effect is a difference between arms that differ in nothing else, averaged with equal weights over the
settings of the other factors for which both arms are there. A two-way interaction is the difference of two such
differences, a three-way one the difference of two two-way ones. Every contrast is a table of seeds and examples like
that of any arm, with the same interval.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from neftune.analysis.designs import Contrast, Design, Factor, Key, contrasts, find_design
from neftune.analysis.differences import BlockDifferences, study_differences
from neftune.analysis.metrics import Direction
from neftune.analysis.multiplicity import holm
from neftune.analysis.power import detectable_effect
from neftune.analysis.statistics import Interval
from neftune.config import KnobValue
from neftune.records import StudyResult


@dataclass(frozen=True, slots=True)
class FactorEffect:
    """A main effect or an interaction.

    Attributes:
        knobs: One for a main effect, two or three for an interaction.
        levels: What each is set to.
        references: What that is compared with.
        estimate: In the metric's unit; of an interaction, the difference of differences.
        low, high: Ends of its interval, for further seeds and examples.
        p_value: Two-sided, for an effect of zero.
        adjusted: The same after Holm's correction for all contrasts of this block and metric.
        detectable: The smallest true effect that is found four times in five; NaN where nothing varied.
        num_seeds, num_examples, num_dropped: What it rests on, and examples left out.
        num_settings: Settings of the other factors that it is the mean over.
        left_out: The other settings, for which an arm is missing.
    """

    knobs: tuple[str, ...]
    levels: tuple[KnobValue, ...]
    references: tuple[KnobValue, ...]
    estimate: float
    low: float
    high: float
    p_value: float
    adjusted: float
    detectable: float
    num_seeds: int
    num_examples: int
    num_dropped: int
    num_settings: int
    left_out: tuple[str, ...]

    @property
    def is_main(self) -> bool:
        """Whether it is a main effect."""
        return len(self.knobs) == 1


@dataclass(frozen=True, slots=True)
class Factorial:
    """All main effects and interactions of one metric in one block.

    Attributes:
        block, part, metric: What is measured where.
        factors: The knobs that were crossed.
        effects: Main effects first, then two-way and three-way interactions.
        means: Mean of the metric by combination, for the arms that entered.
        missing: Arms that were planned and did not enter, with the reason.
        unit, direction: Of the metric.
    """

    block: str
    part: str
    metric: str
    factors: tuple[Factor, ...]
    effects: tuple[FactorEffect, ...]
    means: Mapping[Key, float]
    missing: tuple[str, ...]
    unit: str
    direction: Direction


def factorial(
    result: StudyResult, *, part: str, metric: str, confidence: float = 0.95, design: Design | None = None
) -> tuple[Factorial, ...]:
    """Main effects and interactions of one metric, block by block; none where the arms form no factorial.

    An arm with fewer than half of the planned seeds is left out, and named: what is left of it is chance. A win rate is
    that against the study's baseline, or against the references, of every arm alike.

    Args:
        result: The runs whose arms are compared, of one stage.
        part: Where it is measured.
        metric: Any score, or a win rate.
        confidence: Of every interval.
        design: `find_design(result)`, where it is known.
    """
    design = design or find_design(result)
    if design is None:
        return ()
    num_seeds = len({run.seed for run in result.planned if not run.is_control})
    tables = study_differences(result, part=part, metric=metric)
    return tuple(_block(design, table, num_seeds=num_seeds, confidence=confidence) for table in tables)


def _block(design: Design, table: BlockDifferences, *, num_seeds: int, confidence: float) -> Factorial:
    enough = {arm for arm in table.arms if 2 * table.seeds_of(arm) >= num_seeds}
    cells = {key: arm for key, arm in design.arms.items() if arm in enough}
    effects = tuple(_effects(design, table, cells, confidence=confidence))
    adjusted = holm({str(place): effect.p_value for place, (effect, _) in enumerate(effects)})
    levels = {key: table.baseline_mean + float(table.estimates[table.arms.index(arm)]) for key, arm in cells.items()}
    return Factorial(
        block=table.block,
        part=table.part,
        metric=table.metric,
        factors=design.factors,
        effects=tuple(
            _factor_effect(design, one, interval, adjusted=adjusted[str(place)], confidence=confidence)
            for place, (interval, one) in enumerate(effects)
        ),
        means=levels,
        missing=tuple(_missing(design, table, enough, num_seeds)),
        unit=table.meaning.unit,
        direction=table.meaning.direction,
    )


def _missing(design: Design, table: BlockDifferences, enough: set[str], num_seeds: int) -> Iterator[str]:
    for arm in design.arms.values():
        if arm not in enough:
            has = table.seeds_of(arm) if arm in table.arms else 0
            yield f"{arm} ({has} of {num_seeds} seeds)"


def _effects(
    design: Design, table: BlockDifferences, cells: Mapping[Key, str], *, confidence: float
) -> Iterator[tuple[Interval, Contrast]]:
    place = {arm: index for index, arm in enumerate(table.arms)}
    for one in contrasts(design, cells):
        weights = np.zeros(len(table.arms))
        for arm, weight in one.weights.items():
            weights[place[arm]] = weight
        interval = table.contrast(weights, confidence=confidence)
        if interval is not None:
            yield interval, one


def _factor_effect(
    design: Design, one: Contrast, interval: Interval, *, adjusted: float, confidence: float
) -> FactorEffect:
    factors = [design.factors[index] for index in one.factors]
    named = [dict(zip(design.keys(index), design.factors[index].levels, strict=True)) for index in one.factors]
    varied = bool(interval.components) and interval.standard_error > 0
    return FactorEffect(
        knobs=tuple(factor.knob for factor in factors),
        levels=tuple(levels[key] for levels, key in zip(named, one.levels, strict=True)),
        references=tuple(factor.levels[0] for factor in factors),
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        p_value=interval.p_value,
        adjusted=adjusted,
        detectable=detectable_effect(interval.components, confidence=confidence) if varied else float("nan"),
        num_seeds=interval.num_seeds,
        num_examples=interval.num_examples,
        num_dropped=interval.num_dropped,
        num_settings=one.num_settings,
        left_out=one.left_out,
    )
