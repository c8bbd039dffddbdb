"""A study in a terminal, and as data for other programs."""

import json
import math
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from neftune._version import __version__
from neftune.analysis.benchmark_effects import benchmark_effects
from neftune.analysis.factorial import Factorial
from neftune.analysis.wording import reference_phrase
from neftune.records import StudyResult
from neftune.report import numbers
from neftune.report.benchmarks import benchmarks_table
from neftune.report.confirmation import confirmation_lines, confirmations
from neftune.report.dose_response import dose_sentences
from neftune.report.embed import plain
from neftune.report.evidence import Evidence, gather
from neftune.report.factorial import factorial_lines
from neftune.report.headline import glance_table, reasons_of, size, warnings
from neftune.report.other_means import SecondLook, second_looks
from neftune.report.overview import STAGES, lost_runs
from neftune.report.runs import SHOWN, RunRow, block_title
from neftune.report.stages import stage_lines, stages_data
from neftune.report.tables import Table
from neftune.report.tuning import trials

WIDTH = 100
MOST_FAILURES = 20
SCHEMA = "neftune.summary/1"
COLUMNS = {
    "heldout_loss": "heldout",
    "words": "words",
    "true_facts": "true",
    "false_facts": "false",
    "closed_correct": "closed",
    "win_rate_vs_reference": "win",
    "lc_win_rate_vs_reference": "LC win",
    "repetition_2": "rep-2",
}
"""Short headings, for a table that fits a terminal."""


def terminal_summary(result: StudyResult) -> str:
    """The verdict with its reasons, and the means of every arm, in plain ASCII of at most 100 columns."""
    evidence = gather(result)
    lines = [*_verdict_lines(evidence), "", *_means_lines(evidence)]
    glance, failures = glance_table(evidence), lost_runs(evidence.study)[0]
    if glance is not None:
        partner = reference_phrase(evidence.verdict.judged)
        heading = f"{evidence.verdict.arm} minus {partner}, {evidence.confidence} intervals:"
        lines += ["", *_wrapped(heading), *_glance_lines(glance)]
    lines += _section("Dose and response:", dose_sentences(evidence))
    lines += _section(f"Main effects and interactions, {evidence.confidence} intervals:", factorial_lines(evidence))
    lines += _section("Which data chose, which judged:", (*stage_lines(evidence), *confirmation_lines(evidence)))
    lines += _benchmark_lines(evidence)
    if failures:
        lines += ["", "Failed runs:"]
    for run, failure in failures[:MOST_FAILURES]:
        stage = "" if run.stage == "main" else STAGES[run.stage]
        said = ", ".join(filter(None, (stage, run.arm, block_title(run.block), f"seed {run.seed}")))
        lines += _wrapped(f"  {said}: {failure.error}: {failure.message} (run {run.run_id})", indent="    ")
    if len(failures) > MOST_FAILURES:
        lines.append(f"  and {len(failures) - MOST_FAILURES} more, in the report.")
    return "\n".join(plain(numbers.ascii_only(line)).rstrip() for line in lines) + "\n"


def _section(heading: str, said: Iterable[str]) -> list[str]:
    """A heading and its lines; nothing without a line."""
    lines = [part for line in said for part in _wrapped(f"  {line}", indent="    ")]
    return ["", heading, *lines] if lines else []


def _wrapped(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(numbers.ascii_only(text), WIDTH, subsequent_indent=indent or "  ") or [""]


def _verdict_lines(evidence: Evidence) -> Iterator[str]:
    recipe = evidence.overview.result.recipe
    yield from _wrapped(": ".join(filter(None, (str(recipe.get("name", "study")), str(recipe.get("question", ""))))))
    yield from _wrapped(size(evidence))
    yield ""
    yield from _wrapped(f"VERDICT  {evidence.verdict.sentence}")
    for reason in reasons_of(evidence):
        yield from _wrapped(f"- {reason}")
    for warning in warnings(evidence):
        yield from _wrapped(f"! {warning}")


def _means_lines(evidence: Evidence) -> Iterator[str]:
    """One line per block and arm: means over its finished runs."""
    shown = [name for name in SHOWN if any(not math.isnan(row.values.get(name, math.nan)) for row in evidence.rows)]
    if not shown:
        return
    names = max((len(_short(arm.name)) for arm in evidence.overview.arms), default=3)
    yield "Means over finished runs (test part; win rates in % against references)"
    for block in evidence.overview.blocks:
        yield f"{(block_title(block) or 'arm'):<{names}} runs" + "".join(f"{COLUMNS.get(n, n):>9}" for n in shown)
        for arm in evidence.overview.arms:
            num_runs = len(evidence.overview.of_arm(arm, block=block))
            means = [evidence.mean_of_runs(arm, block, name) for name in shown]
            shares = [100 * m if name == "closed_correct" else m for name, m in zip(shown, means, strict=True)]
            yield f"{_short(arm.name):<{names}}{num_runs:>5}" + "".join(f"{numbers.number(m):>9}" for m in shares)


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:19] + "..."


def _glance_lines(table: Table) -> Iterator[str]:
    """Metric, then a column per block with the difference and its interval."""
    names = [row[0].text for row in table.groups[0].rows]
    width = min(48, max(map(len, names)))
    for first in range(1, len(table.columns), 2):
        blocks = slice(first, first + 2)
        yield " " * width + "".join(f" {column.label:>25}" for column in table.columns[blocks])
        for row in table.groups[0].rows:
            yield f"{row[0].text[:width]:<{width}}" + "".join(f" {cell.text:>25}" for cell in row[blocks])


def _benchmark_lines(evidence: Evidence) -> Iterator[str]:
    """Every arm on every benchmark, block by block."""
    table = benchmarks_table(evidence)
    if table is None:
        return
    for group in table.groups:
        heading = f"Benchmarks{f', {group.heading}' if group.heading else ''}: arm minus baseline"
        yield from ("", heading + f", {evidence.confidence} intervals; shown to lie within +-")
        for name, arm, baseline, _, difference, within, _, n in group.rows:
            level = f"{name.text[:15]:<15} {_short(arm.text):<22} {baseline.text:>6}"
            yield f"{level} {difference.text:>27} {within.text.removeprefix('± '):>7}  n = {n.text}"


def summary_data(result: StudyResult) -> dict[str, Any]:
    """The same as plain data: verdict, every effect, every run with its means and realised noise.

    Numbers that are undefined are None, never NaN, so that any JSON reader takes it.
    """
    evidence = gather(result)
    data = {
        "schema": SCHEMA,
        "neftune": __version__,
        "name": result.recipe.get("name"),
        "question": result.recipe.get("question"),
        "verdict": asdict(evidence.verdict),
        "effects": [{**asdict(effect), "num_seeds": effect.num_seeds} for effect in evidence.effects],
        "dose_response": [asdict(one) for one in evidence.explored.dose_responses],
        "factorial": [_factorial_data(one) for one in evidence.explored.factorials],
        "stages": stages_data(evidence),
        "tuning": [asdict(one) for one in trials(evidence)],
        "confirmation": [{**asdict(one), "kept": one.kept} for one in confirmations(evidence)],
        "by_other_means": [_second_look_data(one) for one in second_looks(evidence)],
        "benchmarks": [asdict(effect) for effect in benchmark_effects(result)],
        "runs": [_run_data(result, row) for row in evidence.rows],
        "recipe": dict(result.recipe),
    }
    return _defined(data)


def _factorial_data(one: Factorial) -> dict[str, Any]:
    means = [{"levels": [json.loads(level) for level in key], "mean": mean} for key, mean in one.means.items()]
    return {**asdict(one), "means": means}


def _second_look_data(one: SecondLook) -> dict[str, Any]:
    """The effect's key, and what is not in the effects already."""
    key = {name: getattr(one.effect, name) for name in ("block", "part", "arm", "metric")}
    return {**key, **{name: value for name, value in asdict(one).items() if name != "effect"}}


def _run_data(result: StudyResult, row: RunRow) -> dict[str, Any]:
    record, failure = result.records.get(row.run.run_id), result.failures.get(row.run.run_id)
    data: dict[str, Any] = {
        "run_id": row.run.run_id,
        "arm": row.run.arm,
        "role": row.arm.role,
        "block": row.run.block,
        "seed": row.run.seed,
        "state": row.state,
    }
    if failure:
        data |= {"error": failure.error, "message": failure.message}
    if record:
        data |= {
            "alpha": record.alpha,
            "noise": asdict(record.noise) if record.noise else None,
            "num_test_examples": row.num_examples,
            "means": dict(row.values),
            "counts": dict(record.counts),
            "seconds": dict(record.seconds),
            "versions": dict(record.versions),
            "data_fingerprint": record.data_fingerprint,
        }
    return data


def _defined(value: Any) -> Any:
    """Plain data with NaN and infinities as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    return value
