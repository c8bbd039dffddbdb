"""What every single run measured: one row per block, arm and seed, nothing averaged away."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neftune.errors import DataError
from neftune.evaluation.length_control import length_controlled_fits
from neftune.evaluation.winrate import preferences_from_quality, win_rate
from neftune.records import Answer, PlannedRun, RunRecord
from neftune.report.metrics import metric_of
from neftune.report.overview import Arm, Overview, mean, score_mean, verbatim_share
from neftune.report.tables import Cell, Column, Group, Table, arm_cell, cells

WINS = ("win_rate_vs_reference", "lc_win_rate_vs_reference")
SHOWN = (
    "heldout_loss", "words", "true_facts", "false_facts", "closed_correct", *WINS, "repetition_2",
)  # fmt: skip
"""Columns of the run table, left out where no run has them."""

STATE = "state"
"""The column of a study in which no run has numbers yet."""

WIN_NOTE = "on open prompts, where the data tell those apart; length is held equal in characters."


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run of the plan and its means.

    Attributes:
        run: The planned run.
        arm: Its arm.
        state: "done", "failed" or "not run".
        values: Means over the test part ("heldout_loss": over the held-out part); win rates against the references.
            NaN where undefined.
        num_examples: Test examples behind them.
    """

    run: PlannedRun
    arm: Arm
    state: str
    values: Mapping[str, float]
    num_examples: int


def run_rows(overview: Overview) -> tuple[RunRow, ...]:
    """A row for every planned run, in the report's order."""
    rows: list[RunRow] = []
    for _, arm, _, run in overview.corners():
        record = overview.result.records.get(run.run_id)
        if record is None:
            state = "failed" if run.run_id in overview.result.failures else "not run"
            rows.append(RunRow(run, arm, state, {}, 0))
        else:
            num_examples = len(record.scores["test"].example_ids) if "test" in record.scores else 0
            rows.append(RunRow(run, arm, "done", run_values(record, overview.metrics), num_examples))
    return tuple(rows)


def run_values(record: RunRecord, metrics: tuple[str, ...]) -> dict[str, float]:
    """Means of one run: every score on the test part, and the derived numbers that tables show."""
    values = {name: score_mean(record, "test", name) for name in metrics}
    values["heldout_loss"] = score_mean(record, "heldout", "loss")
    values["train_loss"] = score_mean(record, "train", "loss")
    values["train_rouge_l"] = score_mean(record, "train", "rouge_l")
    values["train_bleu"] = score_mean(record, "train", "bleu")
    values["train_verbatim"] = verbatim_share(record.answers.get("train", ()))
    values["reference_words"] = mean(float(len(a.reference.split())) for a in record.answers.get("test", ()))
    values |= win_rates_against_references(record)
    return values


def win_rates_against_references(record: RunRecord, part: str = "test") -> dict[str, float]:
    """Raw and length-controlled win rate of a run against its references, in percent; empty without a judge."""
    scores = record.scores.get(part)
    if scores is None or not {"quality", "reference_quality"} <= set(scores.values):
        return {}
    texts = {answer.example_id: answer for answer in compared_answers(record, part)}
    rows = [
        (mine, theirs, texts[example_id])
        for example_id, mine, theirs in zip(
            scores.example_ids, scores.values["quality"], scores.values["reference_quality"], strict=True
        )
        if example_id in texts
    ]
    preferences = preferences_from_quality([row[0] for row in rows], [row[1] for row in rows])
    try:
        raw = win_rate(preferences).win_rate
    except DataError:
        return {}
    extra = np.array([[len(answer.text) - len(answer.reference) for *_, answer in rows]], dtype=float)
    one_sided = bool((extra > 0).all() or (extra < 0).all())
    controlled = math.nan if one_sided else float(length_controlled_fits(np.array([preferences]), extra)[0])
    return {"win_rate_vs_reference": raw, "lc_win_rate_vs_reference": controlled}


def compared_answers(record: RunRecord, part: str = "test") -> list[Answer]:
    """Answers that win rates are taken on: open-ended ones where tags say which those are, else all."""
    halves = any("half" in tags for tags in record.tags.values())
    return [
        answer
        for answer in record.answers.get(part, ())
        if not halves or record.tags.get(answer.example_id, {}).get("half") == "open"
    ]


def runs_table(overview: Overview, rows: tuple[RunRow, ...]) -> Table:
    """The table of all runs, one group per block."""
    shown = [name for name in SHOWN if any(not math.isnan(row.values.get(name, math.nan)) for row in rows)]
    columns = [Column("arm", numeric=False), Column("seed"), *(_column(name) for name in shown or [STATE])]
    decimals = {
        name: metric_of(name).decimals_of(row.values.get(name, math.nan) for row in rows) for name in shown or [STATE]
    }
    groups = [
        Group(block_title(block), tuple(_cells(row, decimals) for row in rows if row.run.block == block))
        for block in overview.blocks
    ]
    num_examples = sorted({row.num_examples for row in rows if row.num_examples})
    examples = " to ".join(
        f"{num:,}" for num in (num_examples[:1] + num_examples[-1:] if len(num_examples) > 1 else num_examples)
    )
    caption = f"Every run on its own: means over {examples or 'no'} test examples; loss over the held-out part."
    notes = (f"Win rates are against the references, {WIN_NOTE}",) if WINS[0] in shown else ()
    return Table("runs", caption, tuple(columns), tuple(groups), notes)


def block_title(block: str) -> str:
    """A block as a heading: "world=0" becomes "world 0"."""
    return block.replace("=", " ")


def _column(name: str) -> Column:
    if name == STATE:
        return Column("state", numeric=False)
    if name == "heldout_loss":
        return Column("held-out loss", "nats/token")
    metric = metric_of(name)
    return Column(metric.label.replace(" against references", ""), metric.unit, about=metric.about)


def _cells(row: RunRow, decimals: Mapping[str, int]) -> tuple[Cell, ...]:
    head = cells(arm_cell(row.arm), str(row.run.seed))
    if row.state != "done":
        return (
            *head,
            Cell(row.state, tone="bad" if row.state == "failed" else ""),
            *cells(*[""] * (len(decimals) - 1)),
        )
    values = (metric_of(n).show(row.values.get(n, math.nan), decimals=places) for n, places in decimals.items())
    return (*head, *map(Cell, values))
