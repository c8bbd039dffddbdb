"""What figures are made of: panels as Plotly data, in the light palette; the page recolours them for dark and print."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from neftune.report.embed import plotly_text
from neftune.report.overview import Arm

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, DejaVu Sans, sans-serif"
Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot.

    Attributes:
        id: Identifier, unique on the page.
        title: What it shows.
        unit: Unit beside the title.
        summary: The same in words, for who cannot see it.
        spec: Plotly's ``{"data": [...], "layout": {...}}``.
        height: In CSS pixels.
    """

    id: str
    title: str
    unit: str
    summary: str
    spec: dict[str, Any]
    height: int = 260


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels that answer one question.

    Attributes:
        name: Identifier, unique on the page.
        title: The question, or its answer.
        caption: How to read it, with n.
        panels: At least one.
        arms: Arms to explain in a legend.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    arms: tuple[Arm, ...] = field(default=())


def spec(data: Sequence[Trace], *, x: dict[str, Any], y: dict[str, Any], height: int, left: int = 52) -> dict[str, Any]:
    """A figure's data with the layout that all figures share."""
    axis = {"automargin": True, "zeroline": False, "showline": False, "ticks": "", "fixedrange": True}
    layout = {
        "height": height,
        "margin": {"l": left, "r": 12, "t": 8, "b": 42},
        "font": {"family": FONT, "size": 12},
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": {**axis, **_titled(x)},
        "yaxis": {**axis, **_titled(y)},
        "shapes": [],
    }
    return {"data": list(data), "layout": layout}


def _titled(axis: dict[str, Any]) -> dict[str, Any]:
    title = axis.get("title")
    return axis if title is None else {**axis, "title": {"text": plotly_text(title), "standoff": 8}}


LABEL_LINE = 13
"""Pixels of one line of an axis label."""


def arm_label(arm: Arm, *, width: int = 16) -> str:
    """An arm's name as an axis label, broken into short lines."""
    return "<br>".join(map(plotly_text, textwrap.wrap(arm.name, width)[:3])) or " "


def label_height(labels: Sequence[str]) -> int:
    """Pixels that the tallest of some axis labels needs, so that none runs into the next."""
    return 4 + LABEL_LINE * max((label.count("<br>") + 1 for label in labels), default=1)


def line(x: Sequence[float], y: Sequence[float | None], arm: Arm, *, dash: str = "solid", name: str = "") -> Trace:
    """A thick line: a mean."""
    return {
        "type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": plotly_text(name or arm.name),
        "line": {"color": arm.colour, "width": 2.4, "dash": dash},
        "hovertemplate": "%{y:.3f} at %{x:.3g}<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def thin_line(x: Sequence[float], y: Sequence[float | None], arm: Arm, *, dash: str = "solid") -> Trace:
    """A thin, pale line: one seed."""
    return {
        "type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "hoverinfo": "skip", "opacity": 0.4,
        "line": {"color": arm.colour, "width": 1, "dash": dash},
    }  # fmt: skip


def vertical(at: float, *, dash: str = "solid", width: float = 1) -> dict[str, Any]:
    """A vertical rule over the whole panel."""
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "layer": "below",
        "line": {"color": "#8793a1", "width": width, "dash": dash},
    }  # fmt: skip


def band(low: float, high: float, colour: str) -> dict[str, Any]:
    """A shaded range of x over the whole panel."""
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": low, "x1": high, "y0": 0, "y1": 1, "layer": "below",
        "fillcolor": colour, "opacity": 0.1, "line": {"width": 0},
    }  # fmt: skip
