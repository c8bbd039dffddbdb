"""Effect over the amount of noise, with the band that holds at all doses, and the doses that may be best."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from neftune.analysis.dose_response import Dose, DoseResponse
from neftune.report import drawing, numbers
from neftune.report.drawing import Figure, Panel, Trace
from neftune.report.embed import plotly_text
from neftune.report.evidence import Evidence
from neftune.report.figures import figures
from neftune.report.metrics import PARTS, metric_of
from neftune.report.overview import ARM_COLOURS, BASELINE_COLOUR
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, cells

MOST_PANELS = 24
HEIGHT = 300
_COLOUR = ARM_COLOURS[0][0]
_MOST_TICKS = 6


def dose_sentences(evidence: Evidence) -> tuple[str, ...]:
    """For the metric that chooses, or else the first there is: the best dose seen, and what cannot be told from it."""
    found = evidence.explored.dose_responses
    chosen = [one for one in found if one.metric == evidence.decision.choose_by and one.best is not None]
    first = next((one.metric for one in found if one.best is not None), None)
    return tuple(best_sentence(one) for one in chosen or [one for one in found if one.metric == first])


def best_sentence(response: DoseResponse) -> str:
    """The best dose seen with its band, and the doses that cannot be told apart from it."""
    best, kept = response.best, response.may_be_best
    assert best is not None
    metric, knob = metric_of(response.metric, response.part), response.knob.rsplit(".", 1)[-1]
    where = f" in {block_title(response.block)}" if response.block else ""
    head = f"{metric.label[:1].upper()}{metric.label[1:]} on the {PARTS[response.part]} part{where} was best "
    if best.dose == 0:
        head += f"without noise ({metric.show(best.level)})"
    else:
        shown = metric.interval(best.estimate, best.band_low, best.band_high, signed=True)
        head += f"at {knob} {best.dose:g}: {shown} {metric.difference_unit}".rstrip() + ", band over all doses"
    if len(kept) == len(response.doses):
        return f"{head}. No two of the {len(kept)} doses can be told apart from it, no noise included."
    others = _ranges(response, kept)
    alone = "every other dose is clearly worse" if len(kept) == 1 else f"{others} cannot be told apart"
    none = any(dose.dose == 0 for dose in kept) and best.dose != 0
    return f"{head}; {alone}{', so that any noise helps is not shown' if none else ''}."


def _ranges(response: DoseResponse, kept: Sequence[Dose]) -> str:
    """Neighbouring doses as ranges: "no noise, 0.3 to 1.2"."""
    places = [place for place, dose in enumerate(response.doses) if dose in kept]
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1 and response.doses[runs[-1][0]].dose != 0:
            runs[-1].append(place)
        else:
            runs.append([place])
    said = [
        _amount(response.doses[run[0]].dose)
        if len(run) == 1
        else f"{response.doses[run[0]].dose:g} to {response.doses[run[-1]].dose:g}"
        for run in runs
    ]
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def _amount(dose: float) -> str:
    return "no noise" if dose == 0 else f"{dose:g}"


@figures.register("dose_response")
def dose_figure(evidence: Evidence) -> Figure | None:
    """How the effect depends on the amount of noise."""
    found = evidence.explored.dose_responses
    if not found:
        return None
    panels = tuple(_panel(one, number) for number, one in enumerate(found[:MOST_PANELS]))
    more = f" The other {len(found) - MOST_PANELS} are in the table." if len(found) > MOST_PANELS else ""
    return Figure(
        "dose-response",
        "How much noise",
        f"Difference from the baseline on the {PARTS[evidence.explored.part]} part by {found[0].knob}. Bars: "
        f"{evidence.confidence} interval of one dose alone. Shade: the band that holds at all doses together; lines "
        "between doses are only drawn. Filled: cannot be told apart from the best dose seen; open: clearly worse than "
        f"it.{more}",
        panels,
    )


def _panel(response: DoseResponse, number: int) -> Panel:
    metric = metric_of(response.metric, response.part)
    places = _places(response.doses)
    at = dict(zip((dose.arm for dose in response.doses), places, strict=True))
    noisy = [dose for dose in response.doses if dose.dose != 0]
    data = [
        _band([at[dose.arm] for dose in noisy], noisy, metric.scale),
        _line([at[dose.arm] for dose in noisy], noisy, metric.scale),
        *(_mark(dose, at[dose.arm], response) for dose in response.doses),
    ]
    unit = f"difference, {metric.difference_unit}" if metric.difference_unit else "difference"
    axis = {"title": response.knob, "tickangle": 0, "showgrid": False, **_ticks(response.doses, places)}
    spec = drawing.spec(data, x=axis, y={"title": unit}, height=HEIGHT)
    spec["layout"]["shapes"] = [_zero()]
    if response.doses[0].dose == 0:
        spec["layout"]["shapes"].append(drawing.vertical((places[0] + places[1]) / 2, dash="dot"))
    title = ", ".join(filter(None, (metric.label, block_title(response.block))))
    return Panel(f"dose-{number}", title, metric.better, " ".join(_said(response)), spec, HEIGHT)


def _places(doses: Sequence[Dose]) -> list[float]:
    """Where doses stand: the logarithm where all are above 0, and no noise a step to the left of the smallest."""
    positive = [dose.dose for dose in doses if dose.dose > 0]
    if any(dose.dose < 0 for dose in doses) or not positive:
        return [dose.dose for dose in doses]
    logs = [math.log10(dose) for dose in positive]
    step = max(0.25, (logs[-1] - logs[0]) / max(1, len(logs) - 1))
    return [math.log10(dose.dose) if dose.dose > 0 else logs[0] - step for dose in doses]


def _ticks(doses: Sequence[Dose], places: Sequence[float]) -> dict[str, Any]:
    """Labels of the doses that have room for one: the first, the last, and what is far enough from its neighbours."""
    room = (places[-1] - places[0]) / _MOST_TICKS
    kept = [0]
    for i in range(1, len(places) - 1):
        if min(places[i] - places[kept[-1]], places[-1] - places[i]) >= room:
            kept.append(i)
    kept.append(len(places) - 1)
    return {"tickvals": [places[i] for i in kept], "ticktext": [f"{doses[i].dose:g}" for i in kept]}


def _band(x: Sequence[float], doses: Sequence[Dose], scale: float) -> Trace:
    ends = [(scale * dose.band_low, scale * dose.band_high) for dose in doses]
    known = [(place, *pair) for place, pair in zip(x, ends, strict=True) if not math.isnan(pair[0])]
    return {
        "type": "scatter", "mode": "lines", "hoverinfo": "skip", "fill": "toself", "fillcolor": _COLOUR,
        "opacity": 0.16, "line": {"color": _COLOUR, "width": 0},
        "x": [place for place, *_ in known] + [place for place, *_ in reversed(known)],
        "y": [low for _, low, _ in known] + [high for *_, high in reversed(known)],
    }  # fmt: skip


def _line(x: Sequence[float], doses: Sequence[Dose], scale: float) -> Trace:
    return {
        "type": "scatter", "mode": "lines", "x": list(x), "y": [scale * dose.estimate for dose in doses],
        "hoverinfo": "skip", "line": {"color": _COLOUR, "width": 1.4},
    }  # fmt: skip


def _mark(dose: Dose, at: float, response: DoseResponse) -> Trace:
    metric = metric_of(response.metric, response.part)
    y, low, high = (metric.scale * value for value in (dose.estimate, dose.low, dose.high))
    known = not math.isnan(low) and dose.dose != 0
    colour = BASELINE_COLOUR[0] if dose.dose == 0 else _COLOUR
    symbol = ("diamond" if dose.dose == 0 else "circle") + ("" if dose.may_be_best else "-open")
    text = metric.interval(dose.estimate, dose.low, dose.high, signed=True)
    said = f"{text} {metric.difference_unit}, level {metric.show(dose.level)}, noise to embedding "
    said += f"{numbers.number(dose.noise_to_embedding)} ({dose.num_seeds} × {dose.num_examples:,})"
    return {
        "type": "scatter", "mode": "markers", "x": [at], "y": [y],
        "marker": {"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1.6, "color": colour}},
        "error_y": {
            "type": "data", "symmetric": False, "array": [high - y if known else 0],
            "arrayminus": [y - low if known else 0], "color": colour, "thickness": 1.6, "width": 0, "visible": known,
        },
        "hovertemplate": plotly_text(said) + f"<extra>{plotly_text(dose.arm)}</extra>",
    }  # fmt: skip


def _zero() -> dict[str, Any]:
    return {
        "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "layer": "below",
        "line": {"color": "#8793a1", "width": 1},
    }  # fmt: skip


def _said(response: DoseResponse) -> Iterator[str]:
    metric = metric_of(response.metric, response.part)
    yield f"{metric.label} by {response.knob}, difference from the baseline."
    for dose in response.doses:
        if dose.dose != 0:
            shown = metric.interval(dose.estimate, dose.low, dose.high, signed=True)
            yield f"{dose.dose:g}: {shown} {metric.difference_unit}.".replace(" .", ".")


def dose_table(evidence: Evidence) -> Table | None:
    """Level, effect, band and realised noise at every dose; None where the arms are not doses."""
    found = evidence.explored.dose_responses
    if not found:
        return None
    columns = (
        Column(found[0].knob, numeric=False),
        Column("noise to embedding", "realised, RMS over RMS"),
        Column("level"),
        Column("difference", f"{evidence.confidence} interval, this dose alone"),
        Column("band", "holds at all doses together"),
        Column("may be best", numeric=False, about="Whether the best dose seen is not clearly better."),
        Column("n", "seeds × examples"),
    )
    groups = tuple(Group(_heading(one), tuple(_row(one, dose) for dose in one.doses)) for one in found)
    caption = f"Doses on the {PARTS[evidence.explored.part]} part, smallest first"
    notes = (
        "The band is Bonferroni's over the doses, each with its own variance of seeds and examples. A dose may be best "
        f"unless the best one seen is clearly better; with {evidence.confidence} confidence the truly best dose of a "
        "block is among those.",
    )
    return Table("doses", caption, columns, groups, notes)


def _heading(response: DoseResponse) -> str:
    metric = metric_of(response.metric, response.part)
    return ", ".join(filter(None, (metric.label, metric.unit, metric.better, block_title(response.block))))


def _row(response: DoseResponse, dose: Dose) -> tuple[Cell, ...]:
    metric = metric_of(response.metric, response.part)
    is_best = response.best is not None and dose.arm == response.best.arm
    state = "" if response.best is None else "best seen" if is_best else "yes" if dose.may_be_best else "no"
    shown = ("", "")
    if dose.dose != 0:
        ends = (dose.low, dose.high), (dose.band_low, dose.band_high)
        alone, together = (metric.interval(dose.estimate, *pair, signed=True) for pair in ends)
        shown = alone, together.partition(" ")[2]
    return cells(
        f"{dose.dose:g}",
        numbers.number(dose.noise_to_embedding) if dose.dose != 0 else "0",
        metric.show(dose.level),
        *shown,
        state,
        f"{dose.num_seeds} × {dose.num_examples:,}",
    )
