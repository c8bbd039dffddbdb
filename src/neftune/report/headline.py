"""The top of the report: the verdict in a sentence, its reasons, and the few numbers that carry it."""

from collections.abc import Iterator
from dataclasses import dataclass

from neftune.analysis.effects import Effect, find_effects
from neftune.report import numbers
from neftune.report.evidence import Evidence
from neftune.report.metrics import metric_of
from neftune.report.runs import block_title

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


@dataclass(frozen=True, slots=True)
class Tile:
    """One number at the top."""

    label: str
    value: str
    note: str = ""


def headline(evidence: Evidence) -> Headline:
    """The verdict, its sentence cut after what to do."""
    verdict = evidence.verdict
    said, _, detail = verdict.sentence.partition(": ")
    detail = detail[:1].upper() + detail[1:]
    return Headline(said, detail, verdict.reasons, verdict.rule, TONES.get(verdict.kind, "open"))


def tiles(evidence: Evidence) -> tuple[Tile, ...]:
    """The size of the study, and the chosen arm's main effects."""
    return (*_size(evidence), *_chosen(evidence))


def _size(evidence: Evidence) -> Iterator[Tile]:
    overview = evidence.overview
    arms = sum(arm.role != "control" for arm in overview.arms)
    controls = len(overview.arms) - arms
    parts = [numbers.count(arms, "arm"), *([numbers.count(controls, "control")] if controls else [])]
    parts += [numbers.count(len(overview.seeds), "seed")]
    parts += [numbers.count(len(overview.blocks), "block")] if overview.has_blocks else []
    yield Tile("Runs finished", f"{len(overview.runs):,} of {len(overview.result.planned):,}", " × ".join(parts))


def _chosen(evidence: Evidence) -> Iterator[Tile]:
    verdict = evidence.verdict
    if verdict.arm is None:
        return
    wanted = dict.fromkeys((evidence.decision.judge_by, "win_rate", "loss", "words", *evidence.decision.harm_by))
    for name in list(wanted)[:6]:
        found = find_effects(evidence.effects, part="test", arm=verdict.arm, metric=name)
        if found:
            yield Tile(f"{metric_of(name).label}, {verdict.arm}", *_values(found))


def _values(found: tuple[Effect, ...]) -> tuple[str, str]:
    """``26.1 to 34.8`` per block: the baseline's mean and the arm's, and the difference below."""
    metric = metric_of(found[0].metric)
    values = [f"{metric.show(effect.baseline_mean)} → {metric.show(effect.arm_mean)}" for effect in found]
    notes = [
        metric.interval(effect.estimate, effect.low, effect.high, signed=True)
        + (f" ({block_title(effect.block)})" if effect.block else "")
        for effect in found
    ]
    return "; ".join(values), "; ".join(notes) + f" {metric.difference_unit}"


def warnings(evidence: Evidence) -> tuple[str, ...]:
    """What a reader must know before reading on."""
    overview = evidence.overview
    said: list[str] = []
    if overview.failures:
        said.append(f"{numbers.count(len(overview.failures), 'run')} failed: see How to reproduce.")
    if overview.unfinished:
        said.append(f"{numbers.count(len(overview.unfinished), 'run')} not finished: this report is of what there is.")
    if len(overview.seeds) == 1:
        said.append("One seed: the intervals say nothing about what another seed would give.")
    return tuple(said)
