"""`neftune study status STUDY`: where a study stands, from any terminal that sees its folder."""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

    from neftune.study.standing import RunningRun, Standing

HELP = "Say where a study stands: runs done, running, failed, expected end, live losses."

EPILOG = """\
Reads the study's folder alone, so it works beside the terminal that runs the study, on another machine that sees the
folder, and after a crash. A run that has not reported for two minutes is marked: its process is probably dead, and
starting the study again goes on with it.

  neftune study status quickstart
        a study by name, in the folder neftune-runs
  neftune study status neftune-runs/studies/quickstart --watch
        by its folder, until it is over
  neftune study status quickstart --json"""

_SECONDS_BETWEEN_LOOKS = 2.0
_MOST_RUNNING = 30


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("study", help="the study's name, or its folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--watch", action="store_true", help="go on showing it until the study is over")


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """Print where the study stands; 0 however it stands."""
    from neftune.errors import ConfigError
    from neftune.study.standing import read_standing
    from neftune.study.store import Store

    if options.watch and options.json:
        raise ConfigError("study status takes --watch or --json, got both. Ask again and again for --json.")
    folder = Path(options.study)
    is_folder = (folder / "plan.json").is_file()
    root, name = (folder.resolve().parent.parent, folder.resolve().name) if is_folder else (options.out, options.study)
    if not root.is_dir():
        raise ConfigError(f"study status needs the folder of all runs, got {root}, which is none. Name it with --out.")
    store = Store(root, read_only=True)
    standing = read_standing(store, name)
    if options.json:
        print(json.dumps(standing_data(standing), indent=1))  # noqa: T201
    elif options.watch:
        _watch(lambda: read_standing(store, name))
    else:
        from rich.console import Console

        Console(soft_wrap=True).print(standing_text(standing))
    return 0


def standing_data(standing: "Standing") -> dict[str, Any]:
    """A study's standing as plain data."""
    return asdict(standing) | {
        "stages": [asdict(one) | {"waiting": one.waiting} for one in standing.stages],
        "running": [asdict(one) | {"is_stale": one.is_stale} for one in standing.running],
        "is_over": standing.is_over,
    }


def standing_text(standing: "Standing") -> "Group":
    """A study's standing as tables for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    stages = Table(box=None, pad_edge=False)
    for column in ("stage", "runs", "done", "running", "waiting", "failed"):
        stages.add_column(column, justify="left" if column == "stage" else "right")
    for one in standing.stages:
        counts = (one.runs, one.done, one.running, one.waiting, one.failed)
        stages.add_row(one.stage, *map(str, counts))
    for stage in standing.to_come:
        stages.add_row(stage, "planned once the stages before it are done")
    running = Table.grid(padding=(0, 2))
    for one in standing.running[:_MOST_RUNNING]:
        style = "yellow" if one.is_stale else ""
        running.add_row(*(Text(cell, style=style) for cell in _cells(one)))
    if (more := len(standing.running) - _MOST_RUNNING) > 0:
        running.add_row(Text(f"and {more} more"))
    said = [Text(f"{len(ids)} failed ({', '.join(ids[:3])}): {why}", "red") for why, ids in standing.failures.items()]
    notes = [Text(f"note: {note}") for note in standing.notes]
    return Group(Text(f"{standing.name}: {_summary(standing)}", "bold"), stages, running, *said, *notes)


def _summary(standing: "Standing") -> str:
    if standing.is_over:
        return "all runs are done" if not standing.failures else "over, with failures: starting it again tries them"
    if not any(not one.is_stale for one in standing.running):
        return "not running. Starting it again goes on from here"
    if standing.seconds_left is None:
        return "running, end not known yet"
    later = " of the stages planned so far" if standing.to_come else ""
    return f"running, about {clock(standing.seconds_left)} left{later}"


def _cells(one: "RunningRun") -> tuple[str, ...]:
    steps = f" {one.step}/{one.num_steps}" if one.num_steps else ""
    loss = f"loss {one.loss:.3f}" if one.loss is not None else ""
    silent = f"silent for {clock(one.silent)}" + (": probably dead" if one.is_stale else "")
    return f"  {one.name}", f"{one.doing}{steps}", loss, silent


def _watch(look: Any) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            standing = look()
            live.update(standing_text(standing), refresh=True)
            if standing.is_over:
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds, or hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
