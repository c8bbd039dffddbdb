"""`neftune winrate`: win rates of judged outputs, raw and at equal length, in one table."""

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neftune.evaluation.winrate_summary import Summary

HELP = "Win rates of judged outputs: raw, discrete, length-controlled, and among pairs of equal length."

EPILOG = """\
FILE holds judgements in AlpacaEval's annotations format (JSON, JSONL, CSV; also .gz), of one model or of many.

  neftune winrate verdicts.jsonl
        what `neftune judge` wrote; the length-controlled rate is fitted to these judgements alone
  neftune winrate verdicts.jsonl --reference alpha0
        all against one side, rows turned around where it stands second
  neftune winrate results/*/weighted_alpaca_eval_gpt4_turbo/annotations.json --by folder --difficulty difficulty.csv
        AlpacaEval's own results; comparable with its board to a point or so
  neftune winrate annotations.json --gamed df_gamed.csv
        AlpacaEval's own fit, when you have that file
  neftune winrate annotations.jsonl --difficulty difficulty.csv --weights baseline_gpt4_1106_preview.csv
        length-controlled rates from published weights

docs/win-rates.md says what each number means."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="judgements, JSON, JSONL or CSV")
    parser.add_argument(
        "--by",
        choices=("auto", "model", "generator", "folder"),
        default="auto",
        help="what names a model: the field model of its rows, their generator_2, or the folder MODEL/ANNOTATOR/FILE "
        "(default: model where there is one, else generator_2)",
    )
    parser.add_argument(
        "--reference", metavar="NAME", help="the baseline; rows with it as generator_2 are turned around"
    )
    parser.add_argument("--difficulty", type=Path, metavar="CSV", help="AlpacaEval's difficulty of each instruction")
    parser.add_argument("--weights", type=Path, metavar="CSV", help="AlpacaEval's fitted weights, instead of a fit")
    parser.add_argument("--gamed", type=Path, metavar="CSV", help="AlpacaEval's df_gamed.csv, for its own fit")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.1,
        help="how far lengths of a matched pair differ, as a share of the longer (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """Read, fit, print; returns the exit code."""
    from neftune.evaluation.alpaca_eval_tables import read_difficulties, read_gamed, read_weights
    from neftune.evaluation.annotations import copied_judgements, misfiled, read_annotations
    from neftune.evaluation.winrate_summary import Tables, summarise

    tables = Tables(
        difficulties=None if options.difficulty is None else read_difficulties(options.difficulty),
        weights=None if options.weights is None else read_weights(options.weights),
        gamed=None if options.gamed is None else read_gamed(options.gamed),
    )
    models = read_annotations(options.files, by=options.by, reference=options.reference)
    rows = [summarise(one, tables, tolerance=options.tolerance) for one in models]
    rows.sort(key=lambda row: -row.raw.win_rate)
    warnings = [
        *misfiled(models),
        *(
            f"{', '.join(names)}: the same judgements, instruction by instruction."
            for names in copied_judgements(models)
        ),
    ]
    if options.json:
        print(json.dumps({"models": [_plain(asdict(row)) for row in rows], "warnings": warnings}, indent=1))  # noqa: T201
    else:
        print(table(rows, options.tolerance))  # noqa: T201
        for warning in warnings:
            print(f"! {warning}", file=sys.stderr)  # noqa: T201
    return 0


def table(rows: "list[Summary]", tolerance: float) -> str:
    """Aligned text: one line per model, then what the columns rest on."""
    several = len({row.annotator for row in rows}) > 1
    headings = (
        "model",
        "baseline",
        "n",
        "null",
        "draw",
        "win rate",
        "discrete",
        "LC",
        "",
        "matched",
        "n",
        "chars",
        "base",
    )
    lines = [headings, *(_cells(row, with_annotator=several) for row in rows)]
    if all(not row.baseline for row in rows):
        lines = [(line[0], *line[2:]) for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    names = 1 if all(not row.baseline for row in rows) else 2
    shown = [
        "  ".join(f"{cell:<{width}}" if column < names or cell.startswith("(") else f"{cell:>{width}}"
                  for column, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]  # fmt: skip
    return "\n".join([*shown, "", *_notes(rows, tolerance)])


def _cells(row: "Summary", *, with_annotator: bool) -> tuple[str, ...]:
    controlled, matched = row.length_controlled, row.matched
    return (
        f"{row.model} [{row.annotator}]" if with_annotator and row.annotator else row.model,
        row.baseline,
        str(row.raw.num_total),
        str(row.raw.num_unparsed),
        str(row.raw.num_draws),
        _rate(row.raw.win_rate, row.raw.standard_error),
        f"{row.discrete.win_rate:.2f}",
        _rate(controlled.win_rate, controlled.standard_error),
        f"({controlled.label}{', extrapolated' if controlled.is_extrapolated else ''})",
        "-" if matched is None else _rate(matched.win_rate, matched.standard_error),
        "0" if matched is None else str(matched.num_total),
        _length(row.model_length),
        _length(row.baseline_length),
    )


def _notes(rows: "list[Summary]", tolerance: float) -> list[str]:
    from neftune.evaluation.length_control import NO_DIFFICULTY, NO_PRIOR
    from neftune.evaluation.winrate_summary import NO_IDS

    labels = {row.length_controlled.label for row in rows}
    notes = [
        "Win rates in % +- standard error; a draw counts half, nulls are left out. LC: at equal length.",
        f"matched: pairs whose lengths differ by at most {tolerance:.0%}, and how many. chars, base: mean lengths.",
    ]
    if NO_PRIOR in labels:
        notes.append(
            "no gamed prior: fitted to these judgements alone; on AlpacaEval 2's board 0.7 points off the published "
            "rate at the median."
        )
    if NO_DIFFICULTY in labels:
        notes.append(
            "no difficulty: nor are instructions' difficulties known; not comparable with published rates (4.9 points)."
        )
    if NO_IDS in labels:
        notes.append(
            f"{NO_IDS}: rows have neither idx nor id, and are not one for each difficulty, so that none can be joined."
        )
    if any(row.length_controlled.is_extrapolated for row in rows):
        notes.append("extrapolated: the model's answers are all longer, or all shorter: equal length was never seen.")
    return notes


def _rate(rate: float, standard_error: float) -> str:
    if math.isnan(rate):
        return "-"
    return f"{rate:.2f}" if math.isnan(standard_error) else f"{rate:.2f} +- {standard_error:.2f}"


def _length(length: float) -> str:
    return "-" if math.isnan(length) else f"{length:.0f}"


def _plain(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
