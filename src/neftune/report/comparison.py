"""The paper's numbers and ours in one table, metric by metric."""

from collections.abc import Iterator
from pathlib import Path

from neftune.analysis.effects import find_effects
from neftune.report import numbers
from neftune.report.evidence import Evidence
from neftune.report.metrics import metric_of
from neftune.report.overview import mean
from neftune.report.paper import DIRECTIONS, PUBLISHED, REPLICATIONS, Published
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, cells, one_group

OURS = {"win_rate": "win_rate_vs_reference", "lc_win_rate": "lc_win_rate_vs_reference"}
"""Our metric that answers to the paper's: its win rates are against a reference model's answers."""

COLUMNS = (
    Column("whose", numeric=False),
    Column("model, data", numeric=False),
    Column("judge", numeric=False),
    Column("alpha"),
    Column("without noise"),
    Column("with noise"),
    Column("difference"),
    Column("seeds"),
)


def paper_table(evidence: Evidence) -> Table:
    """Ours first under each metric, then what is published; metrics that the study lacks are left out.

    Of ours, the arm that the verdict is about stands for all; every arm where there is none.
    """
    groups: list[Group] = []
    for name in dict.fromkeys(entry.metric for entry in PUBLISHED):
        ours = tuple(_ours(evidence, OURS.get(name, name)))
        if ours:
            theirs = tuple(_theirs(entry) for entry in PUBLISHED if entry.metric == name)
            metric = metric_of(OURS.get(name, name))
            groups.append(Group(", ".join(filter(None, (metric.label, metric.unit))), (*ours, *theirs)))
    return Table(
        "paper",
        "This study beside published numbers: each of theirs is a single run without an interval",
        COLUMNS,
        tuple(groups),
        tuple(_direction(entry.metric, entry.finding, entry.source) for entry in DIRECTIONS),
    )


def replication_table() -> Table:
    """Seven data sets by other authors."""
    rows = tuple(_theirs(entry) for entry in REPLICATIONS)
    caption = "Raw AlpacaEval 1 win rate, %, without and with the noise: 6 of 7 up, +3.1 points on average"
    return Table("replication", caption, COLUMNS, one_group(rows))


def _ours(evidence: Evidence, name: str) -> Iterator[tuple[Cell, ...]]:
    recipe = evidence.overview.result.recipe
    rules = recipe.get("evaluate", {}).get("judge") or "given scores"
    judge = f"{rules}, against references" if "win_rate" in name else ""
    places = (recipe.get("model", {}).get("path", ""), recipe.get("data", {}).get("source", ""))
    model = ", ".join(dict.fromkeys(Path(place).name if Path(place).is_absolute() else place for place in places))
    chosen = evidence.verdict.arm
    for arm in evidence.overview.arms:
        if chosen not in (None, arm.name):
            continue
        for effect in find_effects(evidence.effects, part="test", arm=arm.name, metric=name):
            if effect.is_control:
                continue
            metric = metric_of(name)
            alpha = mean(record.alpha for record in evidence.overview.of_arm(arm, block=effect.block))
            where = block_title(effect.block)
            yield cells(
                Cell("", arm=arm),
                Cell(model, note=where),
                judge,
                numbers.number(alpha),
                metric.show(effect.baseline_mean),
                metric.show(effect.arm_mean),
                metric.interval(effect.estimate, effect.low, effect.high, signed=True),
                str(effect.num_seeds),
            )


def _theirs(entry: Published) -> tuple[Cell, ...]:
    return cells(
        entry.source if entry.source.startswith(("arXiv", "Alpaca")) else f"paper, {entry.source}",
        Cell(entry.setting, note=entry.note),
        entry.judge,
        entry.alpha or "not stated",
        f"{entry.without:.2f}",
        f"{entry.with_noise:.2f}",
        numbers.signed(entry.with_noise - entry.without, decimals=2),
        "1",
    )


def _direction(metric: str, finding: str, source: str) -> str:
    return f"{metric_of(metric).label.capitalize() if metric != 'rouge_l' else 'Memorisation'} ({source}): {finding}"
