"""Figures, one question each.

Add one with ``@figures.register("name")``: it gets the evidence and gives a `Figure`, or None where the study has
nothing to show for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neftune.records import RunRecord
from neftune.registry import Registry
from neftune.report import drawing, numbers
from neftune.report.drawing import Figure, Panel, Trace
from neftune.report.embed import plotly_text
from neftune.report.evidence import Evidence
from neftune.report.overview import Arm, Overview, mean
from neftune.report.runs import WINS, block_title

figures: Registry[Callable[[Evidence], Figure | None]] = Registry("figure")
"""Figures by name."""

TRAIN, HELDOUT = "clean_train_loss", "clean_heldout_loss"


@figures.register("losses")
def losses(evidence: Evidence) -> Figure | None:
    """Clean losses while training, per arm: means thick, seeds thin, training loss dashed."""
    overview = evidence.overview
    panels = [panel for number, block in enumerate(overview.blocks) if (panel := _loss_panel(overview, block, number))]
    if not panels:
        return None
    cut = any("range" in panel.spec["layout"]["yaxis"] for panel in panels)
    return Figure(
        "losses",
        "Loss while training, noise off",
        "Solid: held-out loss. Dashed: loss on a fixed sample of the training data. Thick: mean over seeds; "
        f"thin: one seed, of {numbers.count(len(overview.seeds), 'seed')} an arm."
        + (" The steep start lies above the frame." if cut else ""),
        tuple(panels),
        tuple(arm for arm in overview.arms if overview.of_arm(arm)),
    )


def _loss_panel(overview: Overview, block: str, number: int) -> Panel | None:
    data: list[Trace] = []
    ends: list[str] = []
    for arm in overview.arms:
        records = overview.of_arm(arm, block=block)
        for key, dash, what in ((TRAIN, "dash", "training"), (HELDOUT, "solid", "held-out")):
            series = [curve for record in records if (curve := _curve(record, key))]
            data += [drawing.thin_line(list(c), list(c.values()), arm, dash=dash) for c in series if len(series) > 1]
            if series:
                average = _mean_curve(series)
                name = f"{arm.name}, {what}"
                data.append(drawing.line(list(average), list(average.values()), arm, dash=dash, name=name))
                ends.append(f"{name} ends at {numbers.number(next(reversed(average.values())))}")
    if not data:
        return None
    axes = {"x": {"title": "epochs"}, "y": {"title": "loss, nats per token", **_frame(data)}}
    spec = drawing.spec(data, **axes, height=400)
    return Panel(f"losses-{number}", block_title(block), "", "; ".join(ends) + ".", spec, 400)


def _frame(data: Sequence[Trace]) -> dict[str, Any]:
    """The range of the loss once the steep start is over, so that arms can be told apart."""
    end = max(max(trace["x"]) for trace in data)
    late = [y for trace in data for x, y in zip(trace["x"], trace["y"], strict=True) if x >= 0.15 * end]
    low, high = min(late), max(late)
    if max(y for trace in data for y in trace["y"]) <= 1.3 * high:
        return {}
    margin = 0.06 * (high - low) or 0.1
    return {"range": [low - margin, high + margin]}


def _curve(record: RunRecord, key: str) -> dict[float, float]:
    return {
        point.epoch: point.values[key]
        for point in record.history
        if key in point.values and math.isfinite(point.values[key])
    }


def _mean_curve(series: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Mean over seeds at the epochs that every seed measured, where runs stopped early do not bend it."""
    shared = set(series[0]).intersection(*series[1:])
    return {epoch: mean(curve[epoch] for curve in series) for epoch in sorted(shared)}


@figures.register("overfitting")
def overfitting(evidence: Evidence) -> Figure | None:
    """How close answers come to the references word for word, on training and on unseen prompts."""
    overview = evidence.overview
    panels: list[Panel] = []
    for part, title in (("train", "training prompts"), ("test", "test prompts")):
        shares = {
            arm.index: shares
            for arm in overview.arms
            if (shares := _shares([v for r in overview.of_arm(arm) for v in _scores(r, part, "rouge_l")]))
        }
        if shares:
            panels.append(_overlap_panel(overview.arms, shares, part, title))
    if not panels:
        return None
    return Figure(
        "overfitting",
        "Overlap of answers with the references",
        "Share of answers by ROUGE-L (1 is the reference word for word), all seeds and blocks together. A model that "
        "memorises has a peak at the right on training prompts only.",
        tuple(panels),
        tuple(arm for arm in overview.arms if overview.of_arm(arm)),
    )


def _scores(record: RunRecord, part: str, name: str) -> list[float]:
    scores = record.scores.get(part)
    return [value for value in scores.values.get(name, ()) if math.isfinite(value)] if scores else []


def _shares(values: Sequence[float], bins: int = 10) -> list[float]:
    """Percent of the values in each of ``bins`` equal bins of [0, 1]; empty without values."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int(value * bins)))] += 1
    return [100 * count / len(values) for count in counts] if values else []


def _overlap_panel(arms: Sequence[Arm], shares: Mapping[int, Sequence[float]], part: str, title: str) -> Panel:
    data: list[Trace] = []
    said: list[str] = []
    for index, values in shares.items():
        arm, bins = arms[index], len(values)
        x = [(place + 0.5) / bins for place in range(bins)]
        trace = drawing.line(x, list(values), arm)
        trace |= {"mode": "lines+markers", "marker": {"color": arm.colour, "symbol": arm.symbol, "size": 7}}
        trace["hovertemplate"] = "%{y:.1f}% of answers at ROUGE-L %{x:.2f}<extra>%{fullData.name}</extra>"
        data.append(trace)
        said.append(f"{arm.name}: {values[-1]:.0f}% of answers at 0.9 or more")
    axes = {"x": {"title": "ROUGE-L", "range": [0, 1]}, "y": {"title": "% of answers", "rangemode": "tozero"}}
    return Panel(f"overlap-{part}", title, "", "; ".join(said) + ".", drawing.spec(data, **axes, height=300), 300)


@figures.register("wins")
def wins(evidence: Evidence) -> Figure | None:
    """Raw and length-controlled win rates against the references, per arm: what length control takes away."""
    overview = evidence.overview
    panels = [panel for number, block in enumerate(overview.blocks) if (panel := _win_panel(evidence, block, number))]
    if not panels:
        return None
    return Figure(
        "wins",
        "What length control takes away",
        "Win rate against the references: open mark raw, filled mark length-controlled, all seeds together. "
        "Dotted: 50%, as good as the references.",
        tuple(panels),
    )


def _win_panel(evidence: Evidence, block: str, number: int) -> Panel | None:
    rates: list[tuple[Arm, float, float]] = []
    for arm in evidence.overview.arms:
        raw, controlled = (evidence.level(arm, block, name) for name in WINS)
        if not math.isnan(raw):
            rates.append((arm, raw, controlled))
    if not rates:
        return None
    rates.reverse()
    data = [
        trace for place, (arm, raw, controlled) in enumerate(rates) for trace in _dumbbell(arm, place, raw, controlled)
    ]
    ticks = {
        "tickvals": list(range(len(rates))),
        "ticktext": [drawing.arm_label(arm) for arm, *_ in rates],
        "range": [-0.6, len(rates) - 0.4],
        "showgrid": False,
    }
    height = 62 + max(30, drawing.label_height(ticks["ticktext"])) * len(rates)
    spec = drawing.spec(data, x={"title": "win rate, %", "nticks": 6, "tickangle": 0}, y=ticks, height=height, left=8)
    spec["layout"]["shapes"] = [drawing.vertical(50, dash="dot")]
    said = [f"{a.name}: raw {raw:.1f}%, length-controlled {numbers.number(lc)}%" for a, raw, lc in reversed(rates)]
    return Panel(f"wins-{number}", block_title(block), "", "; ".join(said) + ".", spec, height)


def _dumbbell(arm: Arm, place: int, raw: float, controlled: float) -> Sequence[Trace]:
    known = not math.isnan(controlled)
    marks = [(raw, "circle-open", "raw")] + ([(controlled, "circle", "length-controlled")] if known else [])
    bar: Trace = {
        "type": "scatter", "mode": "lines", "x": [value for value, *_ in marks], "y": [place] * len(marks),
        "hoverinfo": "skip", "line": {"color": arm.colour, "width": 2},
    }  # fmt: skip
    points: list[Trace] = [
        {
            "type": "scatter", "mode": "markers", "x": [value], "y": [place],
            "marker": {"color": arm.colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": arm.colour}},
            "hovertemplate": f"{what}: %{{x:.1f}}%<extra>{plotly_text(arm.name)}</extra>",
        }
        for value, symbol, what in marks
    ]  # fmt: skip
    return [bar, *points]
