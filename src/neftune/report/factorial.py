"""Main effects and interactions: a forest, interaction plots and the table of both."""

import math
from collections.abc import Iterator, Sequence

from neftune.analysis.designs import level_key, level_name
from neftune.analysis.factorial import FactorEffect, Factorial
from neftune.report import drawing, numbers
from neftune.report.drawing import Figure, Panel, Trace
from neftune.report.embed import plotly_text
from neftune.report.evidence import Evidence
from neftune.report.figures import figures
from neftune.report.metrics import PARTS, metric_of
from neftune.report.overview import ARM_COLOURS, SYMBOLS
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, cells

MOST_PANELS = 24
_MAIN, _CROSSED = ARM_COLOURS[0][0], ARM_COLOURS[1][0]


def effect_name(effect: FactorEffect) -> str:
    """``alpha 5 against 0``, or ``alpha 5 × dropout 0.3``."""
    named = [f"{_short(knob)} {level_name(level)}" for knob, level in zip(effect.knobs, effect.levels, strict=True)]
    return f"{named[0]} against {level_name(effect.references[0])}" if effect.is_main else " × ".join(named)


def _short(knob: str) -> str:
    return knob.rsplit(".", 1)[-1].replace("_", " ")


@figures.register("factorial")
def factorial_forest(evidence: Evidence) -> Figure | None:
    """What each knob does on average, and whether knobs act on each other."""
    found = [one for one in evidence.explored.factorials if one.effects]
    if not found:
        return None
    return Figure(
        "factorial",
        "What each knob does, and whether they act on each other",
        f"Circles: main effects, averaged over the other knobs' settings. Diamonds: interactions, the difference of "
        f"differences; at zero the knobs add up. {evidence.confidence} intervals on the "
        f"{PARTS[evidence.explored.part]} part.",
        tuple(_forest_panel(one, number) for number, one in enumerate(found[:MOST_PANELS])),
    )


def _forest_panel(one: Factorial, number: int) -> Panel:
    metric = metric_of(one.metric, one.part)
    effects = list(reversed(one.effects))
    height = 62 + sum(26 if effect.is_main else 38 for effect in effects)
    places = _places(effects)
    ticks = {
        "tickvals": places,
        "ticktext": [_label(effect) for effect in effects],
        "range": [places[0] - 0.7, places[-1] + 0.7],
        "showgrid": False,
    }
    unit = f"difference, {metric.difference_unit}" if metric.difference_unit else "difference"
    data = [_mark(one, effect, place) for place, effect in zip(places, effects, strict=True)]
    spec = drawing.spec(data, x={"title": unit, "nticks": 5, "tickangle": 0}, y=ticks, height=height, left=8)
    spec["layout"]["shapes"] = [drawing.vertical(0)]
    title = ", ".join(filter(None, (metric.label, block_title(one.block))))
    said = [f"{metric.label}, main effects and interactions."]
    said += [f"{effect_name(effect)}: {_shown(one, effect)}." for effect in one.effects]
    return Panel(f"factorial-{number}", title, metric.better, " ".join(said), spec, height)


def _places(effects: Sequence[FactorEffect]) -> list[float]:
    """Where effects stand from below: interactions have labels of two lines or three, and more room."""
    places = [0.0]
    for effect in effects[:-1]:
        places.append(places[-1] + (1.0 if effect.is_main else 1.5))
    return places


def _label(effect: FactorEffect) -> str:
    return "<br>× ".join(plotly_text(part) for part in effect_name(effect).split(" × "))


def _mark(one: Factorial, effect: FactorEffect, place: float) -> Trace:
    metric = metric_of(one.metric, one.part)
    x, low, high = (metric.scale * value for value in (effect.estimate, effect.low, effect.high))
    known = not math.isnan(low)
    colour = _MAIN if effect.is_main else _CROSSED
    said = f"{_shown(one, effect)} {metric.difference_unit} ({effect.num_seeds} × {effect.num_examples:,})"
    return {
        "type": "scatter", "mode": "markers", "x": [x], "y": [place],
        "marker": {"color": colour, "symbol": "circle" if effect.is_main else "diamond-open", "size": 8},
        "error_x": {
            "type": "data", "symmetric": False, "array": [high - x if known else 0],
            "arrayminus": [x - low if known else 0], "color": colour, "thickness": 1.6, "width": 0, "visible": known,
        },
        "hovertemplate": plotly_text(said) + f"<extra>{plotly_text(effect_name(effect))}</extra>",
    }  # fmt: skip


def _shown(one: Factorial, effect: FactorEffect) -> str:
    return metric_of(one.metric, one.part).interval(effect.estimate, effect.low, effect.high, signed=True)


@figures.register("interactions")
def interaction_figure(evidence: Evidence) -> Figure | None:
    """Means by two knobs: parallel lines where they add up."""
    panels: list[Panel] = []
    first = next((one.metric for one in evidence.explored.factorials if one.effects), None)
    for one in evidence.explored.factorials:
        crossed = dict.fromkeys(effect.knobs for effect in one.effects if len(effect.knobs) == 2)
        if one.metric == first:
            panels += [_interaction_panel(one, pair, len(panels) + place) for place, pair in enumerate(crossed)]
    if not panels:
        return None
    metric = metric_of(str(first), evidence.explored.part)
    return Figure(
        "interactions",
        "Two knobs together",
        f"Mean {metric.label} on the {PARTS[evidence.explored.part]} part, averaged over the other knobs. "
        "Lines that are not parallel show an interaction; the figure above says whether it is clear.",
        tuple(panels[:MOST_PANELS]),
    )


def _interaction_panel(one: Factorial, knobs: tuple[str, ...], number: int) -> Panel:
    metric = metric_of(one.metric, one.part)
    places = {factor.knob: place for place, factor in enumerate(one.factors)}
    x_at, line_at = (places[knob] for knob in knobs)
    across, lines = one.factors[x_at].levels, one.factors[line_at].levels
    data: list[Trace] = []
    said: list[str] = []
    for rank, level in enumerate(lines):
        means = [_mean(one, {x_at: level_key(value), line_at: level_key(level)}, (x_at, line_at)) for value in across]
        name = f"{_short(knobs[1])} {level_name(level)}"
        data.append(_level_line(name, [metric.scale * mean for mean in means], rank))
        said.append(f"{name}: {', '.join(metric.show(mean) for mean in means)}")
    x = {
        "title": knobs[0], "tickvals": list(range(len(across))), "tickangle": 0, "showgrid": False,
        "ticktext": [plotly_text(level_name(value)) for value in across], "range": [-0.3, len(across) - 0.7],
    }  # fmt: skip
    spec = drawing.spec(data, x=x, y={"title": metric.unit or metric.label}, height=280)
    spec["layout"] |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}}
    spec["layout"]["margin"]["t"] = 40
    title = ", ".join(filter(None, (f"{_short(knobs[0])} and {_short(knobs[1])}", block_title(one.block))))
    return Panel(f"interaction-{number}", title, "", f"{title}. {'; '.join(said)}.", spec, 280)


def _level_line(name: str, means: Sequence[float], rank: int) -> Trace:
    colour = ARM_COLOURS[rank % len(ARM_COLOURS)][0]
    return {
        "type": "scatter", "mode": "lines+markers", "name": plotly_text(name), "x": list(range(len(means))),
        "y": [None if math.isnan(mean) else mean for mean in means], "line": {"color": colour, "width": 2},
        "connectgaps": False, "hovertemplate": f"%{{y:.4g}}<extra>{plotly_text(name)}</extra>",
        "marker": {"color": colour, "symbol": SYMBOLS[rank % len(SYMBOLS)], "size": 8},
    }  # fmt: skip


def _mean(one: Factorial, at: dict[int, str], crossed: tuple[int, int]) -> float:
    """Mean over the settings of the other knobs for which every combination of the two is there; NaN without one."""
    rows: dict[tuple[str, ...], dict[tuple[str, ...], float]] = {}
    for key, mean in one.means.items():
        rest = tuple(level for place, level in enumerate(key) if place not in crossed)
        rows.setdefault(rest, {})[tuple(key[place] for place in crossed)] = mean
    most = max((len(cells) for cells in rows.values()), default=0)
    wanted = tuple(at[place] for place in crossed)
    values = [cells[wanted] for cells in rows.values() if len(cells) == most and wanted in cells]
    return math.fsum(values) / len(values) if values else math.nan


def factorial_table(evidence: Evidence) -> Table | None:
    """Every main effect and interaction; None where the arms form no factorial."""
    found = [one for one in evidence.explored.factorials if one.effects]
    if not found:
        return None
    columns = (
        Column("effect", numeric=False),
        Column("difference", f"{evidence.confidence} interval"),
        Column("p"),
        Column("p, Holm", about="Corrected for all rows of this metric and block."),
        Column("could have seen", "four times in five", about="The smallest true effect found with 80% power."),
        Column("averaged over", "settings of the others"),
        Column("n", "seeds × examples"),
    )
    groups = tuple(Group(_heading(one), tuple(_row(evidence, one, effect) for effect in one.effects)) for one in found)
    caption = f"Main effects and interactions on the {PARTS[evidence.explored.part]} part"
    return Table("factorial", caption, columns, groups, tuple(_notes(found)))


def _heading(one: Factorial) -> str:
    metric = metric_of(one.metric, one.part)
    return ", ".join(filter(None, (metric.label, metric.unit, metric.better, block_title(one.block))))


def _row(evidence: Evidence, one: Factorial, effect: FactorEffect) -> tuple[Cell, ...]:
    metric = metric_of(one.metric, one.part)
    alpha = 1 - evidence.decision.confidence
    sign = {"higher is better": 1, "lower is better": -1}.get(metric.better, 0) * (1 if effect.estimate > 0 else -1)
    tone = "" if effect.adjusted >= alpha or not effect.is_main else "good" if sign > 0 else "bad" if sign < 0 else ""
    total = effect.num_settings + len(effect.left_out)
    return cells(
        effect_name(effect),
        Cell(_shown(one, effect), tone=tone),
        p_text(effect.p_value),
        p_text(effect.adjusted),
        metric.show(effect.detectable),
        f"{effect.num_settings} of {total}" if effect.left_out else str(total),
        f"{effect.num_seeds} × {effect.num_examples:,}",
    )


def p_text(value: float) -> str:
    """A p-value with two significant digits."""
    if math.isnan(value):
        return numbers.MISSING
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _notes(found: Sequence[Factorial]) -> Iterator[str]:
    yield (
        "A main effect compares arms that differ in nothing else, mean over the other knobs' settings; an interaction "
        "is the difference of such differences. Colour: a main effect that is clear after Holm's correction."
    )
    missing = dict.fromkeys(arm for one in found for arm in one.missing)
    if missing:
        yield f"Left out for want of runs: {_some(list(missing))}."
    settings = dict.fromkeys(setting for one in found for effect in one.effects for setting in effect.left_out)
    if settings:
        yield f"Settings that lack an arm of a comparison, left out of it: {_some(list(settings))}."


def _some(names: Sequence[str], most: int = 6) -> str:
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")


def factorial_lines(evidence: Evidence) -> Iterator[str]:
    """The first metric's main effects and interactions, for a terminal."""
    found = [one for one in evidence.explored.factorials if one.effects]
    for one in (one for one in found if one.metric == found[0].metric):
        metric = metric_of(one.metric, one.part)
        yield f"{', '.join(filter(None, (metric.label, block_title(one.block))))}:"
        for effect in one.effects:
            yield f"  {effect_name(effect)}: {_shown(one, effect)} (Holm's p = {p_text(effect.adjusted)})"
