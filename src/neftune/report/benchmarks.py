"""Benchmarks of a study as one table: do facts survive, and how sure is that?"""

import math
from collections.abc import Iterator

from neftune.analysis.benchmark_effects import BenchmarkEffect, benchmark_effects
from neftune.report import numbers
from neftune.report.evidence import Evidence
from neftune.report.metrics import Metric, metric_of
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, arm_cell, cells

TITLES = {
    "arc_challenge": "ARC-Challenge",
    "hellaswag": "HellaSwag",
    "mmlu": "MMLU",
    "truthfulqa_mc2": "TruthfulQA mc2",
    "ifeval": "IFEval",
}

COLUMNS = (
    Column("benchmark", numeric=False),
    Column("arm", numeric=False),
    Column("baseline", "mean"),
    Column("arm's own", "mean"),
    Column("difference", "with interval"),
    Column("within", "equivalence bound", about="The smallest margin that the difference can be claimed to lie in."),
    Column("only one right", "arm : baseline", about="Questions that one alone gets right, summed over seeds."),
    Column("n", "seeds × questions"),
)


def benchmarks_table(evidence: Evidence) -> Table | None:
    """Every arm on every benchmark; None where the study has none."""
    effects = benchmark_effects(evidence.overview.result)
    groups = tuple(
        Group(block_title(block) if block else "", tuple(_rows(evidence, [e for e in effects if e.block == block])))
        for block in evidence.overview.blocks
    )
    if not effects:
        return None
    confidence = f"{100 * effects[0].equivalence.confidence:g}%"
    notes = (
        f"{evidence.confidence} intervals for new seeds and questions (of one seed: questions alone). With "
        f"{confidence} confidence the difference lies within the equivalence bound: a bound that is small enough for "
        "you says that facts survived; an interval that crosses zero says nothing by itself.",
    )
    return Table("benchmarks", "Benchmarks, each arm minus the baseline on the same questions", COLUMNS, groups, notes)


def _rows(evidence: Evidence, effects: list[BenchmarkEffect]) -> Iterator[tuple[Cell, ...]]:
    arms = {arm.name: arm for arm in evidence.overview.arms}
    for name in dict.fromkeys(effect.benchmark for effect in effects):
        for effect in (one for one in effects if one.benchmark == name):
            yield _row(effect, Cell(TITLES.get(name, name), note=effect.metric), arm_cell(arms[effect.arm]))


def _row(effect: BenchmarkEffect, name: Cell, arm: Cell) -> tuple[Cell, ...]:
    metric, interval = metric_of(effect.metric, effect.benchmark), effect.interval
    tone = ("good" * (interval.low > 0)) or ("bad" * (interval.high < 0))
    shown = metric.interval(interval.estimate, interval.low, interval.high, signed=True)
    p_value = "" if effect.mcnemar_p is None else f"McNemar p = {numbers.number(effect.mcnemar_p)}"
    return cells(
        name,
        arm,
        _level(metric, effect.baseline),
        _level(metric, effect.mean),
        Cell(shown, note=p_value, tone=tone),
        _bound(metric, effect.equivalence.bound),
        numbers.MISSING if effect.only_arm is None else f"{effect.only_arm:,} : {effect.only_baseline:,}",
        f"{effect.equivalence.num_seeds} × {effect.equivalence.num_examples:,}",
    )


def _level(metric: Metric, value: float) -> str:
    return f"{metric.show(value)}{'%' if metric.unit == '%' else ''}"


def _bound(metric: Metric, bound: float) -> Cell:
    if math.isnan(bound):
        return Cell(numbers.MISSING, note="no variance seen")
    return Cell(f"± {metric.show(bound)}", note=metric.difference_unit)
