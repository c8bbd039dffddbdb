"""The top of the report: the verdict in a sentence, its reasons, and the few numbers that carry it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neftune.analysis.effects import find_effects
from neftune.analysis.wording import reference_phrase
from neftune.report import numbers
from neftune.report.evidence import Evidence
from neftune.report.metrics import metric_of
from neftune.report.overview import STAGES, Arm, lost_runs
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Table, one_group

TONES = {"use": "yes", "harmful": "no"}


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict as the page opens with it.

    Attributes:
        headline: What to do, in a few words.
        detail: The numbers behind it, with n.
        reasons: What it rests on, a sentence each.
        rule: The rule, stated before the runs.
        tone: "yes", "no" or "open": the colour beside it.
    """

    headline: str
    detail: str
    reasons: tuple[str, ...]
    rule: str
    tone: str


def headline(evidence: Evidence) -> Headline:
    """The verdict, its sentence cut after what to do."""
    verdict = evidence.verdict
    said, _, detail = _typeset(verdict.sentence).partition(": ")
    if "=" not in detail.split(" ")[0]:  # an arm's name keeps its case
        detail = detail[:1].upper() + detail[1:]
    reasons = tuple(map(_typeset, reasons_of(evidence)))
    return Headline(said, detail, reasons, _typeset(verdict.rule), TONES.get(verdict.kind, "open"))


def reasons_of(evidence: Evidence) -> tuple[str, ...]:
    """The verdict's reasons without one for every run that is still to come: those are listed on their own."""
    return merged([reason for reason in evidence.verdict.reasons if not reason.endswith("not run yet.")])


def merged(notes: Sequence[str], *, most: int = 6) -> tuple[str, ...]:
    """Notes that say the same of several things as one: "a: it failed", "b: it failed" -> "a, b: it failed"."""
    about: dict[str, list[str]] = {}
    for note in notes:
        what, colon, said = note.partition(": ")
        about.setdefault(said if colon else note, []).extend([what] if colon else [])
    return tuple(
        f"{', '.join(what[:most])}{f' and {len(what) - most} more' if len(what) > most else ''}: {said}"
        if what
        else said
        for said, what in about.items()
    )


def _typeset(text: str) -> str:
    """Minus signs for the hyphens before numbers."""
    return re.sub(r"(?<![\w-])-(?=[.\d])", numbers.MINUS, text)


def size(evidence: Evidence) -> str:
    """``30 of 30 runs: 4 arms and 1 control x 3 seeds x 2 blocks``."""
    overview = evidence.overview
    arms = sum(arm.role != "control" for arm in overview.arms)
    controls = len(overview.arms) - arms
    kinds = numbers.count(arms, "arm") + (f" and {numbers.count(controls, 'control')}" if controls else "")
    blocks = [numbers.count(len(overview.blocks), "block")] if overview.has_blocks else []
    parts = [kinds, numbers.count(len(overview.seeds), "seed"), *blocks]
    done, planned = len(overview.runs), len(overview.result.planned)
    return f"{done:,} of {numbers.count(planned, 'run')}: {' × '.join(parts)}"


def glance_table(evidence: Evidence) -> Table | None:
    """The chosen arm beside the baseline on the metrics that matter most; None where none was chosen."""
    arm = next((arm for arm in evidence.overview.arms if arm.name == evidence.verdict.arm), None)
    if arm is None:
        return None
    rule = evidence.decision
    wanted = dict.fromkeys((rule.judge_by, "lc_win_rate", "win_rate", "loss", "words", *rule.harm_by))
    blocks = evidence.overview.blocks
    columns = [Column("on the test part", numeric=False)]
    columns += [Column(block_title(block) or "difference", f"{evidence.confidence} interval") for block in blocks]
    rows = [row for name in wanted if (row := tuple(_glance(evidence, arm, name, blocks)))]
    seeds = numbers.count(len(evidence.overview.seeds), "seed")
    partner = reference_phrase(evidence.verdict.judged)
    caption = f"{arm.name} beside {partner}: difference, and the means that it is between ({seeds})"
    return Table("glance", caption, tuple(columns), one_group(rows))


def _glance(evidence: Evidence, arm: Arm, name: str, blocks: Sequence[str]) -> Iterator[Cell]:
    found = {e.block: e for e in find_effects(evidence.effects, part="test", arm=arm.name, metric=name)}
    if not found:
        return
    metric = metric_of(name)
    num_examples = numbers.count(max(effect.num_examples for effect in found.values()), "example")
    yield Cell(metric.label, note=", ".join(filter(None, (metric.unit, metric.better, num_examples))))
    for block in blocks:
        effect = found.get(block)
        if effect is None:
            yield Cell(numbers.MISSING)
            continue
        difference = metric.interval(effect.estimate, effect.low, effect.high, signed=True)
        tone = "good" * evidence.is_gain(effect) or "bad" * evidence.is_harm(effect)
        yield Cell(difference, tone=tone, note=f"{metric.show(effect.baseline_mean)} → {metric.show(effect.arm_mean)}")


def warnings(evidence: Evidence) -> tuple[str, ...]:
    """What a reader must know before reading on."""
    overview = evidence.overview
    said: list[str] = []
    failed, unfinished = lost_runs(evidence.study)
    if failed:
        said.append(f"{numbers.count(len(failed), 'run')} failed: why stands under the runs without a result.")
    if unfinished:
        said.append(f"{numbers.count(len(unfinished), 'run')} not finished: this report is of what there is.")
    if evidence.study.to_come:
        waits = " and ".join(STAGES[stage] for stage in evidence.study.to_come)
        said.append(f"Still to come, once these runs are done: {waits}.")
    if len(overview.seeds) == 1:
        said.append("One seed: the intervals say nothing about what another seed would give.")
    return tuple(said)
