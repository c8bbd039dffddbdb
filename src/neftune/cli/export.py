"""`neftune export`: studies as Parquet files."""

import argparse
from pathlib import Path

from neftune.cli.terminal import say, show
from neftune.errors import ConfigError

HELP = "Write studies as Parquet files, for pandas, polars, DuckDB or R."
EPILOG = """\
Seven files: runs, settings, scores (one row for every run, part, example and metric), answers, history, tags, effects.
Their columns stand in docs/data.md.

  neftune export alpaca-small --to tables
        one study
  neftune export --all --to tables
        every study of the folder, shared runs once, and finished runs of no study

  pandas.read_parquet("tables/scores.parquet")
  duckdb -c "select arm, avg(value) from 'tables/scores.parquet' join 'tables/runs.parquet' using (run_id)
             where part = 'test' and metric = 'loss' group by arm" """


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("study", nargs="?", help="the study's name")
    parser.add_argument("--all", action="store_true", help="every study, and finished runs that no study plans")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the files go")


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """Write the files and say how many rows each has."""
    from neftune.report.export import export
    from neftune.study.store import Store

    if bool(options.study) == options.all:
        got = "both" if options.all else "neither"
        raise ConfigError(f"export takes a study's name or --all, got {got}. `neftune list` shows the studies.")
    store = Store(options.out, read_only=True)
    names = store.studies() if options.all else [options.study]
    rows = export(
        store,
        options.to,
        studies=names,
        strays=options.all,
        on_block=lambda name, done, blocks: say(f"{name}: block {done} of {blocks}") if blocks > 1 else None,
    )
    for name, number in rows.items():
        show(f"{number:>12,}  {options.to / name}.parquet")
    return 0
