"""The report: one HTML file that holds all it shows and loads nothing from anywhere."""

import importlib.resources
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from neftune._version import __version__
from neftune.errors import MissingExtraError, StoreError
from neftune.records import StudyResult
from neftune.report.drawing import Figure
from neftune.report.embed import json_for_script, plain, script_hash
from neftune.report.evidence import Evidence, gather
from neftune.report.headline import glance_table, headline, size, warnings
from neftune.report.outputs import outputs_payload
from neftune.report.overview import ARM_COLOURS, BASELINE_COLOUR, CONTROL_COLOURS
from neftune.report.sections import Section, sections


def write_report(result: StudyResult, path: Path) -> Path:
    """Write a study's report as one HTML file; it appears whole or not at all.

    Args:
        result: The study, finished or not.
        path: The file to write; its folder must exist.

    Returns:
        The path.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
        StoreError: The file cannot be written.
    """
    html = render(gather(result))
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(html)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"the report must be writable, got {path}: {error.strerror}. Name another place.") from error
    return path


def render(evidence: Evidence) -> str:
    """The report's HTML."""
    made = sections(evidence)
    scripts = [asset("outputs.js"), plotly_source(), asset("report.js")]
    result = evidence.overview.result
    return _template().render(
        version=__version__,
        name=str(result.recipe.get("name", "study")),
        question=str(result.recipe.get("question", "")),
        verdict=headline(evidence),
        size=size(evidence),
        glance=glance_table(evidence),
        warnings=warnings(evidence),
        sections=made,
        style=asset("style.css"),
        scripts=scripts,
        script_hashes=[script_hash(script) for script in scripts],
        figures_data=json_for_script(figures_payload(made)),
        outputs_data=json_for_script(outputs_payload(evidence.overview)),
    )


def figures_payload(made: tuple[Section, ...]) -> dict[str, Any]:
    """Every panel's Plotly data by id, and which dark colour stands for which light one."""
    found = [item.value for section in made for item in section.items if isinstance(item.value, Figure)]
    pairs = (BASELINE_COLOUR, *CONTROL_COLOURS, *ARM_COLOURS)
    return {"panels": {panel.id: panel.spec for figure in found for panel in figure.panels}, "dark": dict(pairs)}


def asset(name: str) -> str:
    """A packaged script or style sheet."""
    return importlib.resources.files("neftune.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def plotly_source() -> str:
    """Plotly's JavaScript, as the installed plotly package brings it."""
    try:
        package = importlib.resources.files("plotly")
    except ModuleNotFoundError as error:
        raise _missing("plotly") from error
    return package.joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


@cache
def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise _missing("jinja2") from error
    loader = jinja2.PackageLoader("neftune.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    return environment.get_template("page.html")


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(f"A report needs {package}, which is not installed. Run: pip install 'neftune[report]'")
