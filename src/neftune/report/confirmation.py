"""The chosen arm twice: as the runs that chose it saw it, and on fresh seeds."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from neftune.analysis.effects import Effect, find_effects, pairing_effects
from neftune.analysis.pairing import pairings
from neftune.records import PlannedRun, StudyResult
from neftune.report.evidence import Evidence
from neftune.report.metrics import metric_of
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, cells


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One metric of the chosen arm in one block, seen three times.

    Attributes:
        block, arm, metric: What was chosen where, by the arm's name when it was chosen.
        chosen: Its effect on the held-out part in the runs that chose it.
        heldout: The same on fresh seeds; None where those were not evaluated there.
        test: On fresh seeds and the test part; None where it was not measured.
    """

    block: str
    arm: str
    metric: str
    chosen: Effect
    heldout: Effect | None
    test: Effect | None

    @property
    def kept(self) -> float:
        """What is left on fresh seeds of the effect seen on the held-out part, as a share; NaN where unknown."""
        if self.heldout is None or self.chosen.estimate == 0:
            return math.nan
        return self.heldout.estimate / self.chosen.estimate


def confirmations(evidence: Evidence) -> tuple[Confirmed, ...]:
    """The chosen arm of every block on the metrics that choose and judge; none without confirmation runs."""
    study = evidence.study
    picked = _picked(study)
    if not picked:
        return ()
    rule = evidence.decision
    explored = {(one.block, one.arm): one for one in pairings(evidence.explored.result)}
    made: list[Confirmed] = []
    for block, (name, arm) in picked.items():
        pairing = explored.get((block, name))
        if pairing is None:
            continue
        for metric in dict.fromkeys((rule.choose_by, rule.judge_by)):
            seen = pairing_effects(pairing, confidence=rule.confidence, part="heldout", metric=metric)
            chosen = next(seen, None)
            if chosen is not None:
                fresh = find_effects(evidence.effects, block=block, arm=arm, metric=metric)
                by_part: Mapping[str, Effect] = {effect.part: effect for effect in fresh}
                made.append(Confirmed(block, name, metric, chosen, by_part.get("heldout"), by_part.get("test")))
    return tuple(made)


def _picked(study: StudyResult) -> dict[str, tuple[str, str]]:
    """Block -> the chosen arm's name when it was chosen, and its name in the confirmation."""
    explored: dict[str, list[PlannedRun]] = {}
    for run in study.planned:
        if run.stage == "main" and run.is_noisy and not run.is_control:
            explored.setdefault(run.block, []).append(run)
    picked: dict[str, tuple[str, str]] = {}
    for run in study.planned:
        if run.stage == "confirm" and run.is_noisy and not run.is_control and run.block not in picked:
            twin = next((one for one in explored.get(run.block, ()) if one.setting == run.setting), None)
            if twin is not None:
                picked[run.block] = (twin.arm, run.arm)
    return picked


def confirmation_table(evidence: Evidence) -> Table | None:
    """What choosing saw beside what fresh seeds saw; None without confirmation runs."""
    found = confirmations(evidence)
    if not found:
        return None
    interval = f"{evidence.confidence} interval"
    columns = (
        Column("metric", numeric=False),
        Column("chosen arm", numeric=False),
        Column("when it was chosen", f"held-out part, {interval}"),
        Column("fresh seeds", f"held-out part, {interval}"),
        Column("kept", "%", about="The effect on fresh seeds as a share of the one seen when choosing."),
        Column("fresh seeds, judged", f"test part, {interval}"),
    )
    groups = tuple(
        Group(block_title(block), tuple(_row(evidence, one) for one in found if one.block == block))
        for block in dict.fromkeys(one.block for one in found)
    )
    notes = (
        "The best of several is the luckiest too: its first estimate flatters it, and what fresh seeds keep of it is "
        "the honest one. Only the last column judges.",
    )
    return Table("confirmation", "The chosen arm when it was chosen, and on fresh seeds", columns, groups, notes)


def _row(evidence: Evidence, one: Confirmed) -> tuple[Cell, ...]:
    return cells(
        metric_of(one.metric).label,
        one.arm,
        *(_effect(evidence, effect) for effect in (one.chosen, one.heldout)),
        "" if math.isnan(one.kept) else f"{100 * one.kept:.0f}",
        _effect(evidence, one.test, judged=True),
    )


def _effect(evidence: Evidence, effect: Effect | None, *, judged: bool = False) -> Cell:
    if effect is None:
        return Cell("not measured")
    metric = metric_of(effect.metric, effect.part)
    tone = ("good" * evidence.is_gain(effect) or "bad" * evidence.is_harm(effect)) if judged else ""
    shown = metric.interval(effect.estimate, effect.low, effect.high, signed=True)
    return Cell(
        shown, tone=tone, note=f"{metric.difference_unit} ({effect.num_seeds} × {effect.num_examples:,})".strip()
    )


def confirmation_lines(evidence: Evidence) -> Iterator[str]:
    """The same in a terminal."""
    for one in confirmations(evidence):
        metric = metric_of(one.metric)
        shown = [
            metric.interval(effect.estimate, effect.low, effect.high, signed=True) if effect else "not measured"
            for effect in (one.chosen, one.heldout, one.test)
        ]
        where = f" in {block_title(one.block)}" if one.block else ""
        yield (
            f"{metric.label} of {one.arm}{where}: {shown[0]} when chosen (held-out), {shown[1]} on fresh seeds "
            f"(held-out), {shown[2]} judged (test)"
        )
