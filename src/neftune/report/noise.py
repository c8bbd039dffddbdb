"""The noise that the model really received, beside what was asked."""

from collections.abc import Iterator, Sequence

from neftune.records import RunRecord
from neftune.report import numbers
from neftune.report.overview import Arm, Overview, mean
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, arm_cell, cells

COLUMNS = (
    Column("arm", numeric=False),
    Column("asked"),
    Column("alpha applied"),
    Column("alpha realised", "mean (min to max over documents)", about="Noise norm of a document times sqrt(3)."),
    Column("noise-to-embedding ratio", "RMS over RMS"),
    Column("documents", "noised, per run"),
    Column("tokens", "noised, per run"),
    Column("runs"),
)


def noise_table(overview: Overview) -> Table:
    """Asked and realised noise of every arm, block by block."""
    groups = tuple(Group(block_title(block), tuple(_rows(overview, block))) for block in overview.blocks)
    return Table(
        "noise",
        "Noise asked for and realised, over all training forwards",
        COLUMNS,
        groups,
        ("Padding gets none, and evaluation runs without it. A document counts at every exposure.",),
    )


def _rows(overview: Overview, block: str) -> Iterator[tuple[Cell, ...]]:
    for arm in overview.arms:
        records = overview.of_arm(arm, block=block)
        if records:
            yield _row(arm, records)


def _row(arm: Arm, records: Sequence[RunRecord]) -> tuple[Cell, ...]:
    noises = [record.noise for record in records if record.noise is not None]
    alpha = mean(record.alpha for record in records)
    applied = numbers.number(alpha) if alpha else "0"
    head = cells(arm_cell(arm), asked(records[0]), applied)
    if not noises:
        return (*head, *cells("none", "0", "0", "0", str(len(records))))
    low, high = min(noise.alpha_min for noise in noises), max(noise.alpha_max for noise in noises)
    realised = numbers.number(mean(noise.alpha_mean for noise in noises))
    return (
        *head,
        *cells(
            f"{realised} ({numbers.number(low)} to {numbers.number(high)})",
            numbers.number(mean(noise.noise_to_embedding for noise in noises)),
            numbers.number(mean(float(noise.num_documents) for noise in noises), decimals=0),
            numbers.number(mean(float(noise.num_tokens) for noise in noises), decimals=0),
            str(len(records)),
        ),
    )


def asked(record: RunRecord) -> str:
    """The noise as the recipe asks for it: ``alpha 5`` or ``ratio 0.3``."""
    noise = record.config.get("noise", {})
    if noise.get("nsr") is not None:
        return f"ratio {noise['nsr']:g}"
    return f"alpha {noise.get('alpha') or 0:g}"
