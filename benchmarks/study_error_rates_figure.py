"""Draw the stored error rates of simulated studies as one SVG for docs/statistics.md.

python benchmarks/study_error_rates_figure.py benchmarks/results/study_error_rates_<...>.json FILE.svg
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, TOP, BOTTOM, MARGIN = 300, 300, 46, 44, 40
COLOURS = ("#0b6e99", "#5b9a3c", "#8a63b8", "#c2851b", "#b23c00", "#7a7a7a")
INNER = WIDTH - 60
RADII = {3: 3.0, 5: 4.5, 10: 6.0}
Row = dict[str, Any]
Height = Callable[[float], float]


def line(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    """A straight line."""
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def circle(x: float, y: float, radius: float, colour: str, *, fill: str = "none") -> str:
    """A circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'


def text(x: float, y: float, said: str, *, anchor: str = "start", weight: int = 400) -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{said}</text>'


def panel(left: int, title: str, limits: tuple[float, float], marks: Sequence[float]) -> tuple[list[str], Height]:
    """A titled frame with horizontal marks in percent, and what turns a percentage into a height."""
    low, high = limits

    def height(percent: float) -> float:
        share = (min(max(percent, low), high) - low) / (high - low)
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    parts = [text(left + MARGIN, 24, title, weight=600)]
    for mark in marks:
        parts.append(line((left + MARGIN, height(mark)), (left + WIDTH - 10, height(mark)), "#ddd"))
        parts.append(text(left + MARGIN - 6, height(mark) + 4, f"{mark:g}%", anchor="end"))
    return parts, height


def by_seeds(left: int, rows: Sequence[Row], y: Height, *, before: str | None = None) -> list[str]:
    """A dot with two standard errors for each row, in groups of seeds; ``before`` is drawn hollow."""
    mixes, seeds = list(dict.fromkeys(r["mix"] for r in rows)), list(dict.fromkeys(r["seeds"] for r in rows))
    step, parts = INNER / len(seeds), list[str]()
    for row in rows:
        index = mixes.index(row["mix"])
        x = left + MARGIN + 12 + seeds.index(row["seeds"]) * step + index * (step - 22) / max(1, len(mixes) - 1)
        value, error, colour = row["percent"], 2 * row["standard_error"], COLOURS[index]
        parts.append(line((x, y(value - error)), (x, y(value + error)), colour))
        parts.append(circle(x, y(value), 4, colour, fill=colour))
        if before:
            parts.append(circle(x, y(row[before]), 4, colour, fill="white"))
    for index, count in enumerate(seeds):
        parts.append(text(left + MARGIN + (index + 0.5) * step, HEIGHT - 22, f"{count} seeds", anchor="middle"))
    return parts


def by_prediction(left: int, rows: Sequence[Row], y: Height) -> list[str]:
    """Power found against power predicted, in the columns of two predictions; larger circles have more seeds."""
    parts, mixes = list[str](), list(dict.fromkeys(row["mix"] for row in rows))

    def centre(percent: float) -> float:
        return left + MARGIN + (percent - 35) / 60 * INNER

    for mark in (50, 80):
        parts.append(line((centre(mark) - 46, y(mark)), (centre(mark) + 46, y(mark)), "#000"))
        parts.append(text(centre(mark), HEIGHT - 22, f"predicted {mark}%", anchor="middle"))
    for row in rows:
        index = mixes.index(row["mix"])
        x = centre(50 if row["predicted"] < 65 else 80) + 15 * (index - (len(mixes) - 1) / 2)
        parts.append(circle(x, y(row["percent"]), RADII[row["seeds"]], COLOURS[index]))
    return parts


def figure(result: dict[str, Any]) -> str:
    """The SVG of all panels."""
    parts, y = panel(0, "95% intervals: coverage", (90, 100), (90, 93, 95, 97, 100))
    parts += by_seeds(0, result["coverage"], y)
    more, y = panel(WIDTH, "No effect, 8 arms: false “use”", (0, 14), (0, 2.5, 5, 10))
    parts += more + by_seeds(WIDTH, result["false_use"], y, before="without_allowance")
    more, y = panel(2 * WIDTH, "One of 3 arms helps: found", (40, 90), (45, 50, 55, 75, 80, 85))
    parts += more + by_prediction(2 * WIDTH, result["power"], y)
    for index, mix in enumerate(dict.fromkeys(row["mix"] for row in result["coverage"])):
        x, row = MARGIN + 290 * (index % 3), HEIGHT + 6 + 18 * (index // 3)
        parts += [circle(x, row - 4, 5, COLOURS[index], fill=COLOURS[index]), text(x + 10, row, mix)]
    width, height = 3 * WIDTH, HEIGHT + 40
    start = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    about = 'role="img" aria-label="Coverage, false use and power of simulated studies"'
    paper = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([f'{start} font-family="sans-serif" font-size="12" {about}>', paper, *parts, "</svg>\n"])


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    target.write_text(figure(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
