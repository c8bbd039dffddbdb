"""Raw and length-controlled win rates in one table, always with both mean lengths."""

import math
from collections.abc import Iterable

from neftune.analysis.effects import Effect
from neftune.records import Answer, RunRecord
from neftune.report import numbers
from neftune.report.evidence import Evidence
from neftune.report.metrics import metric_of
from neftune.report.overview import Arm, mean
from neftune.report.runs import WIN_NOTE, WINS, block_title, compared_answers
from neftune.report.tables import Cell, Column, Group, Table, arm_cell, cells

COLUMNS = (
    Column("arm", numeric=False),
    Column("win rate, raw", "%", about="Share of prompts on which the judge prefers the arm; a draw counts half."),
    Column("win rate, length-controlled", "%", about="What it would be if both answers were equally long."),
    Column("length, this arm", "mean"),
    Column("length, opponent", "mean"),
    Column("n", "seeds × prompts"),
)


def wins_table(evidence: Evidence) -> Table | None:
    """Win rates against the baseline and against the references, block by block; None without a judge."""
    groups: list[Group] = []
    for block in evidence.overview.blocks:
        place = f"{block_title(block)}: " if block else ""
        groups.append(Group(f"{place}against the baseline", tuple(_against_baseline(evidence, block))))
        groups.append(Group(f"{place}against the reference responses", tuple(_against_references(evidence, block))))
    table = Table(
        "wins",
        "Win rates on the test part, raw and length-controlled, with the mean lengths of both sides",
        COLUMNS,
        tuple(group for group in groups if group.rows),
        (
            f"{evidence.confidence} intervals for new seeds and prompts, {WIN_NOTE}",
            *_judge_note(evidence),
            "Against the references, the small line is the difference from the baseline's rate. A raw win rate that "
            "length control takes away was won by being longer.",
        ),
    )
    return None if table.is_empty else table


def _judge_note(evidence: Evidence) -> Iterable[str]:
    if evidence.overview.result.judged_by:
        yield f"Against the baseline, the judge is {evidence.overview.result.judged_by}, asked after the runs."


def _against_baseline(evidence: Evidence, block: str) -> Iterable[tuple[Cell, ...]]:
    overview = evidence.overview
    for arm in overview.arms:
        raw, controlled = (_effect(evidence, block, arm, name) for name in ("win_rate", "lc_win_rate"))
        if raw is None or overview.baseline is None:
            continue
        lengths = [_length(_paired(evidence, side, block, raw.seeds)) for side in (arm, overview.baseline)]
        yield cells(arm_cell(arm), _rate(raw), _rate(controlled), *lengths, _n(raw))


def _against_references(evidence: Evidence, block: str) -> Iterable[tuple[Cell, ...]]:
    overview = evidence.overview
    for arm in overview.arms:
        if math.isnan(evidence.level(arm, block, WINS[0])):
            continue
        records = overview.of_arm(arm, block=block)
        answers = [answer for record in records for answer in compared_answers(record)]
        rates = [_level(evidence, block, arm, name) for name in WINS]
        n = f"{len(records)} × {len(answers) // len(records):,}"
        yield cells(arm_cell(arm), *rates, _length(answers), _length(answers, of_reference=True), n)


def _level(evidence: Evidence, block: str, arm: Arm, name: str) -> Cell:
    """An arm's own rate, with its difference from the baseline's as a note."""
    effect = _effect(evidence, block, arm, name)
    metric = metric_of(name)
    if effect is None:
        return Cell(metric.show(evidence.level(arm, block, name)))
    difference = metric.interval(effect.estimate, effect.low, effect.high, signed=True)
    return Cell(metric.show(effect.arm_mean), note=difference)


def _effect(evidence: Evidence, block: str, arm: Arm, name: str) -> Effect | None:
    return evidence.tested(arm, block, name)


def _rate(effect: Effect | None) -> Cell:
    """The rate itself with its interval: the effect's interval, moved from the difference to the rate."""
    if effect is None:
        return Cell(numbers.MISSING, note="equal length was not seen")
    ends = effect.baseline_mean + effect.low, effect.baseline_mean + effect.high
    better = effect.low > 0, effect.high < 0
    return Cell(
        metric_of(effect.metric).interval(effect.arm_mean, *ends), tone=("good" * better[0]) or ("bad" * better[1])
    )


def _paired(evidence: Evidence, arm: Arm, block: str, seeds: tuple[int, ...]) -> list[Answer]:
    runs = evidence.overview.runs
    records: list[RunRecord] = [runs[arm.name, block, seed] for seed in seeds]
    return [answer for record in records for answer in compared_answers(record)]


def _length(answers: list[Answer], *, of_reference: bool = False) -> Cell:
    texts = [answer.reference if of_reference else answer.text for answer in answers]
    words, characters = (mean(float(n) for n in lengths) for lengths in (
        (len(text.split()) for text in texts), (len(text) for text in texts)
    ))  # fmt: skip
    return Cell(f"{numbers.number(words)} words", note=f"{numbers.number(characters)} characters")


def _n(effect: Effect) -> str:
    return f"{effect.num_seeds} × {effect.num_examples:,}"
