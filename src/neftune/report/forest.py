"""Effects with their intervals: forest plots, one panel a metric, and the same numbers as tables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from neftune.analysis.effects import Effect
from neftune.report import drawing, numbers
from neftune.report.drawing import Figure, Panel, Trace
from neftune.report.embed import plotly_text
from neftune.report.evidence import Evidence
from neftune.report.metrics import PARTS, Metric, is_style, metric_of
from neftune.report.overview import Arm
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, arm_cell, cells

ROW_HEIGHT, BLOCK_HEIGHT = 14, 12
BLOCK_SYMBOLS = ("circle", "diamond-open", "square", "triangle-up-open", "x", "star-open")
BAD = "#b23c00"
DRAWN = ("words", "repetition_2", "log_diversity", "ended", "rouge_l", "bleu")
"""Metrics of style that are drawn; the table has them all."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Metrics that a reader asks about together.

    Attributes:
        name: Identifier.
        title: The question that they answer.
        caption: How to read them.
        metrics: Their names.
    """

    name: str
    title: str
    caption: str
    metrics: tuple[str, ...]


def kinds(evidence: Evidence) -> tuple[Kind, ...]:
    """The judged metric, the metrics that must not get worse, other outcomes, style; empty ones left out."""
    rule, measured = evidence.decision, evidence.measured
    wins = ("lc_win_rate", "win_rate", "lc_win_rate_vs_reference", "win_rate_vs_reference")
    first = (rule.judge_by, *wins) if rule.judge_by in wins else (rule.judge_by,)
    harms = tuple(name for name in rule.harm_by if name not in first)
    others = [name for name in measured if name not in first and name not in harms]
    groups = (
        Kind("judged", "What the verdict is taken on", "", first),
        Kind("harms", "What must not get worse", "Shaded: worse than the tolerance.", harms),
        Kind("outcomes", "Other outcomes", "", tuple(name for name in others if not is_style(name))),
        Kind("style", "How the answers are written", "", _by_rank(name for name in others if is_style(name))),
    )
    present = (
        Kind(g.name, g.title, g.caption, tuple(dict.fromkeys(m for m in g.metrics if m in measured))) for g in groups
    )
    return tuple(kind for kind in present if kind.metrics)


def _by_rank(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: DRAWN.index(name) if name in DRAWN else len(DRAWN)))


def forest(evidence: Evidence, kind: Kind) -> Figure | None:
    """One panel per metric of a kind: every arm's difference from the baseline in every block."""
    drawn = [name for name in kind.metrics if kind.name != "style" or name in DRAWN]
    panels = tuple(
        _panel(evidence, name, [e for e in evidence.effects if e.part == "test" and e.metric == name]) for name in drawn
    )
    blocks = evidence.overview.blocks
    signs = ("circles", "open diamonds", "squares", "open triangles", "crosses", "open stars")
    key = ", ".join(f"{sign}: {block_title(block)}" for sign, block in zip(signs, blocks, strict=False))
    caption = f"Difference from the baseline on the test part with its {evidence.confidence} interval. "
    caption += _partners(evidence)
    caption += (f"{key[0].upper()}{key[1:]}. " if len(blocks) > 1 else "") + kind.caption
    return Figure(f"forest-{kind.name}", kind.title, caption.strip(), panels) if panels else None


def _partners(evidence: Evidence) -> str:
    """What "the baseline" of a row is where it is not the study's."""
    if all(effect.against == "baseline" for effect in evidence.effects):
        return ""
    return "Of an arm with noise it is the same arm without it, where the study has that. "


def _panel(evidence: Evidence, name: str, effects: Sequence[Effect]) -> Panel:
    metric = metric_of(name)
    arms = [arm for arm in evidence.overview.arms if any(effect.arm == arm.name for effect in effects)]
    blocks = evidence.overview.blocks
    data = [trace for place, arm in enumerate(reversed(arms)) for trace in _marks(metric, arm, place, blocks, effects)]
    labels = [drawing.arm_label(arm) for arm in reversed(arms)]
    height = 62 + len(arms) * max(ROW_HEIGHT + BLOCK_HEIGHT * len(blocks), drawing.label_height(labels))
    ticks = {
        "tickvals": list(range(len(arms))),
        "ticktext": labels,
        "range": [-0.6, len(arms) - 0.4],
        "showgrid": False,
    }
    title = f"difference, {metric.difference_unit}" if metric.difference_unit else "difference"
    spec = drawing.spec(data, x={"title": title, "nticks": 5, "tickangle": 0}, y=ticks, height=height, left=8)
    spec["layout"]["shapes"] = [drawing.vertical(0), *_limits(evidence, name, metric, effects)]
    return Panel(f"forest-{name}", metric.label, metric.better, " ".join(_said(metric, effects)), spec, height)


def _marks(metric: Metric, arm: Arm, place: int, blocks: Sequence[str], effects: Sequence[Effect]) -> Iterator[Trace]:
    """One mark with its interval per block, blocks from top to bottom within the arm's row."""
    for number, block in enumerate(blocks):
        found = next((e for e in effects if e.arm == arm.name and e.block == block), None)
        if found is None:
            continue
        x, low, high = (metric.scale * value for value in (found.estimate, found.low, found.high))
        known = low == low and high == high  # an interval of one run is NaN
        offset = (len(blocks) - 1) / 2 - number
        where = f"{block_title(block)}, " if block else ""
        text = metric.interval(found.estimate, found.low, found.high, signed=True)
        yield {
            "type": "scatter", "mode": "markers", "x": [x], "y": [place + offset * 0.6 / max(1, len(blocks))],
            "marker": {"color": arm.colour, "symbol": BLOCK_SYMBOLS[number % len(BLOCK_SYMBOLS)], "size": 8},
            "error_x": {
                "type": "data", "symmetric": False, "array": [high - x if known else 0],
                "arrayminus": [x - low if known else 0], "color": arm.colour, "thickness": 1.6, "width": 0,
                "visible": known,
            },
            "hovertemplate": plotly_text(
                f"{text} {metric.difference_unit} ({where}{_n(found)})"
            ) + f"<extra>{plotly_text(arm.name)}</extra>",
        }  # fmt: skip


def _limits(evidence: Evidence, name: str, metric: Metric, effects: Sequence[Effect]) -> Iterator[dict[str, Any]]:
    """The smallest effect worth having as a dotted line; what is worse than tolerated as a shade."""
    rule, sign = evidence.decision, {"higher is better": 1.0, "lower is better": -1.0}.get(metric.better, 0.0)
    if name == rule.judge_by and rule.min_effect and sign:
        yield drawing.vertical(sign * metric.scale * rule.min_effect, dash="dot")
    if name in rule.harm_by and sign:
        tolerated = -sign * metric.scale * rule.harm_tolerance.get(name, 0.0)
        ends = [metric.scale * value for e in effects for value in (e.low, e.high, e.estimate) if value == value]
        worst = min([*ends, tolerated * 1.5]) if sign > 0 else max([*ends, tolerated * 1.5])
        yield drawing.band(tolerated, worst, BAD)


def _said(metric: Metric, effects: Iterable[Effect]) -> Iterator[str]:
    yield f"{metric.label}, difference from the baseline."
    for effect in effects:
        where = f" in {block_title(effect.block)}" if effect.block else ""
        text = metric.interval(effect.estimate, effect.low, effect.high, signed=True)
        yield f"{effect.arm}{where}: {text} {metric.difference_unit}."


def effects_table(evidence: Evidence, kind: Kind, *, part: str = "test") -> Table:
    """Baseline, arm and difference for every metric, arm and block of a kind."""
    has_blocks = evidence.overview.has_blocks
    columns = [Column("arm", numeric=False), *([Column("block", numeric=False)] if has_blocks else [])]
    columns += [
        Column("baseline"),
        Column("arm"),
        Column("difference", f"{evidence.confidence} interval"),
        Column("n", "seeds × examples"),
    ]
    groups = tuple(Group(_heading(name, part), tuple(_rows(evidence, name, part))) for name in kind.metrics)
    caption = f"{kind.title}: means and differences from the baseline on the {PARTS[part]} part"
    caption += f". {_partners(evidence)}".rstrip(" .")
    return Table(f"effects-{kind.name}-{part}", caption, tuple(columns), tuple(g for g in groups if g.rows))


def matrix(evidence: Evidence, table: str, caption: str, wanted: Sequence[tuple[str, str]]) -> Table:
    """One row per arm, the baseline included, and one column per (part, metric); differences in small."""
    shown = [key for key in wanted if any((e.part, e.metric) == key for e in evidence.effects)]
    metrics = [metric_of(metric, part) for part, metric in shown]
    columns = [Column("arm", numeric=False)]
    columns += [
        Column(metric.label if name == "generalisation_gap" else f"{metric.label}, {PARTS[part]}", metric.unit)
        for metric, (part, name) in zip(metrics, shown, strict=True)
    ]
    groups: list[Group] = []
    for block in evidence.overview.blocks:
        found = {(e.part, e.metric, e.arm): e for e in evidence.effects if e.block == block}
        arms = [arm for arm in evidence.overview.arms if any(key[2] == arm.name for key in found)]
        rows = [(arm_cell(arm), *(_level(found.get((*key, arm.name)), *key) for key in shown)) for arm in arms]
        base = evidence.overview.baseline
        if rows and base:
            rows.insert(0, (arm_cell(base), *(_base_level(found.values(), *key) for key in shown)))
        groups.append(Group(block_title(block), tuple(rows)))
    return Table(table, caption, tuple(columns), tuple(groups))


def _level(effect: Effect | None, part: str, name: str) -> Cell:
    if effect is None:
        return Cell(numbers.MISSING)
    metric = metric_of(name, part)
    difference = metric.interval(effect.estimate, effect.low, effect.high, signed=True)
    return Cell(metric.show(effect.arm_mean), note=difference)


def _base_level(effects: Iterable[Effect], part: str, name: str) -> Cell:
    found = next((e for e in effects if (e.part, e.metric) == (part, name)), None)
    return Cell(numbers.MISSING if found is None else metric_of(name, part).show(found.baseline_mean))


def _heading(name: str, part: str) -> str:
    metric = metric_of(name, part)
    return ", ".join(filter(None, (metric.label, metric.unit, metric.better)))


def _rows(evidence: Evidence, name: str, part: str) -> Iterator[tuple[Cell, ...]]:
    arms = {arm.name: arm for arm in evidence.overview.arms}
    metric = metric_of(name, part)
    found = [e for e in evidence.effects if e.metric == name and e.part == part]
    for effect in sorted(found, key=lambda e: (arms[e.arm].index, evidence.overview.blocks.index(e.block))):
        tone = "good" * evidence.is_gain(effect) or "bad" * evidence.is_harm(effect)
        difference = metric.interval(effect.estimate, effect.low, effect.high, signed=True)
        middle = cells(block_title(effect.block)) if evidence.overview.has_blocks else ()
        means = cells(metric.show(effect.baseline_mean), metric.show(effect.arm_mean))
        yield (*cells(arm_cell(arms[effect.arm])), *middle, *means, Cell(difference, tone=tone), Cell(_n(effect)))


def _n(effect: Effect) -> str:
    return f"{effect.num_seeds} × {effect.num_examples:,}"


def dropped_note(effects: Sequence[Effect]) -> str:
    """How many examples were left out, at most; "" where none was."""
    most = max((effect.num_dropped for effect in effects), default=0)
    return f"Up to {numbers.count(most, 'example')} left out where a run had no number for them." if most else ""
