"""Where the numbers come from: settings, versions, seeds, failures, and the command that makes them again."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from neftune.records import StudyResult
from neftune.report import numbers
from neftune.report.overview import STAGES, Overview, lost_runs
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Table, arm_cell, cells, one_group

MOST_LOST = 500
"""Runs without a result that are listed."""


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted knobs, in order; lists stay whole."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value


def settings_table(overview: Overview) -> Table:
    """The resolved recipe, one knob a row."""
    rows = [cells(name, _value(value)) for name, value in flat(overview.result.recipe)]
    columns = (Column("knob", numeric=False), Column("value", numeric=False))
    return Table("settings", "Every setting, defaults included", columns, one_group(rows))


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return str(value)


def recipe_text(overview: Overview) -> str:
    """The resolved recipe as the YAML that makes this study again."""
    return yaml.safe_dump(dict(overview.result.recipe), sort_keys=False, allow_unicode=True, width=100)


def command_text(overview: Overview) -> str:
    """Shell commands that make the study again from the recipe below."""
    versions = next(iter(overview.result.records.values())).versions if overview.result.records else {}
    wanted = [f"'neftune[all]=={versions['neftune']}'"] if "neftune" in versions else ["'neftune[all]'"]
    libraries = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
    wanted += [f"{name}=={versions[name]}" for name in libraries if name in versions]
    return f"pip install {' '.join(wanted)}\nneftune study recipe.yaml\n"


def versions_table(overview: Overview) -> Table:
    """Libraries, code and hardware; a second line wherever runs differ."""
    found: dict[str, dict[str, int]] = {}
    for record in overview.runs.values():
        for name, version in record.versions.items():
            found.setdefault(name, {}).setdefault(version, 0)
            found[name][version] += 1
    rows = [
        cells(name, Cell("; ".join(versions), note="differs between runs" if len(versions) > 1 else ""))
        for name, versions in found.items()
    ]
    fingerprints = dict.fromkeys((block, r.data_fingerprint) for (_, block, _), r in overview.runs.items())
    rows += [cells(f"data {block_title(block)}".strip(), fingerprint) for block, fingerprint in fingerprints]
    columns = (Column("what", numeric=False), Column("version", numeric=False))
    return Table("versions", "Versions, hardware and data fingerprints", columns, one_group(rows))


def missing_table(overview: Overview, study: StudyResult) -> Table:
    """Runs of every stage that have no result, and why; failures first."""
    arms = {arm.name: arm for arm in overview.arms}
    failed, unfinished = lost_runs(study)
    lost = [(run, failure.error, failure.message) for run, failure in failed]
    lost += [(run, "", "not run yet") for run in unfinished]
    rows: list[tuple[Cell, ...]] = []
    for run, error, said in lost[:MOST_LOST]:
        arm = arm_cell(arms[run.arm]) if run.arm in arms else Cell(run.arm)
        where = STAGES[run.stage], block_title(run.block), str(run.seed)
        rows.append(cells(arm, *where, error, said, run.run_id))
    names = ("arm", "stage", "block", "seed", "error", "what happened", "run")
    columns = tuple(Column(name, numeric=name == "seed") for name in names)
    more = (f"{MOST_LOST:,} of {len(lost):,} are shown.",) if len(lost) > MOST_LOST else ()
    return Table("missing", "Runs without a result", columns, one_group(rows), more)


def runs_index(overview: Overview) -> Table:
    """Every finished run with its id, counts and time."""
    rows = []
    for block, arm, seed, run in overview.corners():
        record = overview.result.records.get(run.run_id)
        if record:
            counts = ", ".join(f"{name.replace('_', ' ')} {num:,}" for name, num in record.counts.items())
            seconds = numbers.duration(sum(record.seconds.values()) if record.seconds else None)
            rows.append(cells(arm_cell(arm), block_title(block), str(seed), run.run_id, counts, seconds))
    names = ("arm", "block", "seed", "run", "counts", "time")
    columns = tuple(Column(name, numeric=name in ("seed", "time")) for name in names)
    return Table("index", "Finished runs", columns, one_group(rows))
