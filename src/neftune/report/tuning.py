"""Nuisance knobs: what every arm tried, how good it was on held-out data, and what was chosen."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neftune.analysis.designs import level_key, level_name
from neftune.analysis.metrics import meaning_of
from neftune.records import PlannedRun
from neftune.report import numbers
from neftune.report.evidence import Evidence
from neftune.report.metrics import metric_of
from neftune.report.overview import mean, score_mean
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, cells


@dataclass(frozen=True, slots=True)
class Trial:
    """One nuisance setting of one arm in one block.

    Attributes:
        block, arm: Where it was tried.
        setting: The nuisance knobs.
        score: Mean on the held-out part over its finished seeds; NaN without one.
        num_seeds, num_failed, num_planned: Runs behind it.
        is_chosen: Whether the arm's further runs use it.
        at_edge: Knobs whose chosen value is the smallest or the largest that was tried.
    """

    block: str
    arm: str
    setting: Mapping[str, Any]
    score: float
    num_seeds: int
    num_failed: int
    num_planned: int
    is_chosen: bool
    at_edge: tuple[str, ...]


def trials(evidence: Evidence) -> tuple[Trial, ...]:
    """Every nuisance setting of every arm, in the order of the plan; none where nothing was tuned."""
    study = evidence.study
    grouped: dict[tuple[str, str, str], list[PlannedRun]] = {}
    chosen: dict[tuple[str, str], str] = {}
    for run in study.planned:
        if run.stage == "tune":
            grouped.setdefault((run.block, run.arm, _key(run.nuisance)), []).append(run)
        elif run.stage == "main" and not run.is_control:
            chosen[run.block, run.arm] = _key(run.nuisance)
    made: list[Trial] = []
    order = {at: place for place, at in enumerate(dict.fromkeys(at[:2] for at in grouped))}
    for (block, arm, key), runs in sorted(grouped.items(), key=lambda item: order[item[0][:2]]):
        records = [study.records[run.run_id] for run in runs if run.run_id in study.records]
        is_chosen = chosen.get((block, arm)) == key
        made.append(
            Trial(
                block=block,
                arm=arm,
                setting=runs[0].nuisance,
                score=mean(score_mean(record, "heldout", tune_by(evidence)) for record in records),
                num_seeds=len(records),
                num_failed=sum(run.run_id in study.failures for run in runs),
                num_planned=len(runs),
                is_chosen=is_chosen,
                at_edge=tuple(_edges(evidence, runs[0].nuisance)) if is_chosen else (),
            )
        )
    return tuple(made)


def tune_by(evidence: Evidence) -> str:
    """The score that nuisance knobs are tuned by."""
    settings: Any = evidence.study.recipe.get("study", {})
    return str(settings.get("tune_by", "loss"))


def tuning_tables(evidence: Evidence) -> tuple[Table, Table] | None:
    """What every arm was given, and all that was tried; None where nothing was tuned."""
    found = trials(evidence)
    if not found:
        return None
    metric = metric_of(tune_by(evidence), "heldout")
    head = (Column("arm", numeric=False), Column("setting", numeric=False))
    score = Column(f"held-out {metric.label}", ", ".join(filter(None, (metric.unit, metric.better))))
    columns = (*head, score, Column("gain over the worst"), Column("seeds"), Column("note", numeric=False))
    budget = sorted({len({_key(t.setting) for t in found if (t.block, t.arm) == at}) for at in _arms(found)})
    tried = " to ".join(map(str, budget[:1] + budget[-1:] if len(budget) > 1 else budget))
    seeds = numbers.count(max(one.num_planned for one in found), "seed")
    given = Table(
        "tuned",
        f"What every arm was given: the best of {tried} settings by {metric.label} on the held-out part ({seeds} each)",
        columns,
        tuple(_groups(found, lambda one: one.is_chosen, evidence)),
        ("Every arm had the same budget. These runs judge nothing: their seeds and scores enter no effect.",),
    )
    everything = (*head, score, Column("seeds"), Column("note", numeric=False))
    all_rows = tuple(_all_groups(found, evidence))
    return given, Table("trials", "Every setting that was tried", everything, all_rows)


def _groups(found: Sequence[Trial], wanted: Any, evidence: Evidence) -> Iterator[Group]:
    scores: dict[tuple[str, str], list[float]] = {}
    for one in found:
        scores.setdefault((one.block, one.arm), []).append(one.score)
    metric = metric_of(tune_by(evidence), "heldout")
    lower = meaning_of(tune_by(evidence), "heldout").direction == "lower"
    for block in dict.fromkeys(one.block for one in found):
        rows: list[tuple[Cell, ...]] = []
        for one in (trial for trial in found if trial.block == block and wanted(trial)):
            known = [score for score in scores[block, one.arm] if not math.isnan(score)]
            gain = math.nan if len(known) < 2 else (max(known) - one.score if lower else one.score - min(known))
            note = Cell(_edge_note(one), tone="bad" if one.at_edge else "")
            shown = metric.show(one.score), metric.show(gain)
            rows.append(cells(one.arm, setting_text(one.setting), *shown, str(one.num_seeds), note))
        yield Group(block_title(block), tuple(rows))


def _all_groups(found: Sequence[Trial], evidence: Evidence) -> Iterator[Group]:
    metric = metric_of(tune_by(evidence), "heldout")
    by_block: dict[str, list[tuple[Cell, ...]]] = {}
    for one in found:
        waiting = one.num_planned - one.num_seeds - one.num_failed
        said = ["chosen"] if one.is_chosen else []
        said += [f"{one.num_failed} of {one.num_planned} failed"] if one.num_failed else []
        said += [f"{waiting} to come"] if waiting else []
        note = Cell(", ".join(said), tone="bad" if one.num_failed else "")
        row = cells(one.arm, setting_text(one.setting), metric.show(one.score), str(one.num_seeds), note)
        by_block.setdefault(one.block, []).append(row)
    for block, rows in by_block.items():
        yield Group(block_title(block), tuple(rows))


def setting_text(setting: Mapping[str, Any]) -> str:
    """``learning_rate=0.001, epochs=3``."""
    return ", ".join(f"{knob.rsplit('.', 1)[-1]}={level_name(value)}" for knob, value in setting.items())


def _arms(found: Sequence[Trial]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.block, one.arm) for one in found))


def _edge_note(one: Trial) -> str:
    return (
        f"at the edge of what was tried: {', '.join(knob.rsplit('.', 1)[-1] for knob in one.at_edge)}"
        if one.at_edge
        else ""
    )


def _edges(evidence: Evidence, setting: Mapping[str, Any]) -> Iterator[str]:
    settings: Any = evidence.study.recipe.get("study", {})
    for knob, value in setting.items():
        values = settings.get("nuisance", {}).get(knob, [])
        ordered = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
        if ordered and len(values) > 1 and value in (min(values), max(values)):
            yield knob


def _key(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{knob}={level_key(setting[knob])}" for knob in sorted(setting))
