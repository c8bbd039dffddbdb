"""An audit as one figure: realised over nominal alpha by document length."""

from pathlib import Path
from typing import Any

from neftune.errors import ConfigError, MissingExtraError, StoreError
from neftune.noise.findings import PHASES, AuditResult, Finding
from neftune.report.drawing import spec
from neftune.report.embed import plotly_text

_COLOURS = ("#0b6e99", "#c2570c", "#6b4fa1", "#4d7c0f", "#a8325e", "#52616b")


def write_audit_figure(result: AuditResult, path: Path) -> Path:
    """Write the figure as one HTML file that loads nothing from anywhere.

    Raises:
        ConfigError: The file's name does not end in .html.
        MissingExtraError: plotly is not installed.
        StoreError: The file cannot be written.
    """
    if path.suffix != ".html":
        raise ConfigError(f"the figure is an HTML file, got {path}. Name it .html.")
    try:
        from plotly.io import write_html
    except ImportError as error:
        raise MissingExtraError(
            "the figure needs plotly, which is not installed. Run: pip install 'neftune[report]'"
        ) from error
    try:
        write_html(audit_figure(result), path, include_plotlyjs=True, validate=True)
    except OSError as error:
        raise StoreError(f"the figure must be writable, got {path}: {error.strerror}. Name another place.") from error
    return path


def audit_figure(result: AuditResult) -> dict[str, Any]:
    """Plotly's data and layout: a line per stack and phase with bars from the least to the most, and a rule at 1."""
    shown = [finding for finding in result.findings if finding.num_documents]
    data = [_line(finding, colour) for finding, colour in zip(shown, _COLOURS, strict=False)]
    figure = spec(
        data,
        x={"title": "document length L (tokens)", "type": "log"},
        y={"title": "realised alpha / nominal alpha", "rangemode": "tozero"},
        height=420,
        left=64,
    )
    rule = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "layer": "below"}
    title = {"text": _broken(result.verdict), "x": 0, "xref": "paper", "font": {"size": 14}}
    figure["layout"] |= {
        "title": title,
        "showlegend": len(data) > 1,
        "legend": {"orientation": "h", "y": -0.2},
        "margin": {"l": 64, "r": 16, "t": 90, "b": 60},
        "shapes": [{**rule, "line": {"color": "#8793a1", "dash": "dot"}}],
    }
    return figure


def _line(finding: Finding, colour: str) -> dict[str, Any]:
    groups = finding.groups
    stack = "" if finding.stack == "only" else f"{finding.stack}, "
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{stack}{PHASES[finding.phase]}",
        "x": [(group.shortest + group.longest) / 2 for group in groups],
        "y": [group.mean for group in groups],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [group.most - group.mean for group in groups],
            "arrayminus": [group.mean - group.least for group in groups],
            "thickness": 1,
        },
        "line": {"color": colour},
        "customdata": [[group.num_documents, group.shortest, group.longest] for group in groups],
        "hovertemplate": "%{y:.3f} of alpha<br>%{customdata[0]} documents, %{customdata[1]} to %{customdata[2]} tokens"
        "<extra>%{fullData.name}</extra>",
    }


def _broken(text: str) -> str:
    return "<br>".join(plotly_text(part) for part in text.split("; "))
