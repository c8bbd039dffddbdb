"""`neftune study prune`: shows what nothing needs any more, and removes it where asked."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neftune.errors import ConfigError

if TYPE_CHECKING:
    from neftune.study.prune import Removal

HELP = "Show what the folder of runs holds that nothing needs, and remove it with --yes."
EPILOG = """\
Shown, and with --yes removed: runs that no study plans, checkpoints of finished runs, half-written files.
Never removed: a run that some process is working on, or that a study still plans (unless a flag below says so).

  neftune study prune
        what could go, with sizes; removes nothing
  neftune study prune --yes
        the same, and removes it
  neftune study prune --weights --yes
        saved weights of finished runs too; their results stay
  neftune study prune --failed --unfinished --yes
        also what failed or was given up, checkpoints included
  neftune study prune --study alpaca-small --yes
        a whole study, and the runs that no other study shares
  neftune study prune --earlier-plans --yes
        what a changed recipe, or changed code, has left behind"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--yes", action="store_true", help="remove what is shown (default: show it only)")
    parser.add_argument("--failed", action="store_true", help="also runs whose last attempt failed")
    parser.add_argument("--unfinished", action="store_true", help="also runs that were begun and given up")
    parser.add_argument("--weights", action="store_true", help="also saved weights of finished runs")
    parser.add_argument("--earlier-plans", action="store_true", help="also plans that were replaced, and their runs")
    parser.add_argument("--study", action="append", default=[], metavar="NAME", help="also this whole study")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """Show or remove; 1 where something had to stay because a process holds it."""
    from neftune.study.prune import Wanted, removals, remove
    from neftune.study.store import Store

    root: Path = options.out
    if not (root / "runs").is_dir():
        raise ConfigError(f"prune needs the folder of all runs, got {root}, which is none. Name it with --out.")
    store = Store(root, read_only=not options.yes)
    wanted = Wanted(
        failed=options.failed,
        unfinished=options.unfinished,
        weights=options.weights,
        earlier_plans=options.earlier_plans,
        studies=tuple(options.study),
    )
    found = removals(store, wanted)
    left: tuple[Removal, ...] = ()
    if options.yes:
        found, left = remove(store, found)
    if options.json:
        rows = [_row(one, root, "removed" if options.yes else "could go") for one in found]
        _print(json.dumps([*rows, *(_row(one, root, "in use") for one in left)], indent=1))
    else:
        _print(_table(found, root, did=options.yes))
        for one in left:
            _print(f"kept: {one.path.relative_to(root)} is being worked on by a process")
    return 1 if left else 0


def _row(one: "Removal", root: Path, state: str) -> dict[str, object]:
    return {"path": str(one.path.relative_to(root)), "why": one.why, "bytes": one.num_bytes, "state": state}


def _table(found: Sequence["Removal"], root: Path, *, did: bool) -> str:
    if not found:
        return f"nothing in {root} can go."
    lines = [f"{_size(one.num_bytes):>9}  {one.path.relative_to(root)!s:40}  {one.why}" for one in found]
    total = _size(sum(one.num_bytes for one in found))
    what = f"{len(found)} item{'s' if len(found) > 1 else ''}"
    lines.append(f"removed {what}, {total}." if did else f"{what}, {total}, could go. Nothing was removed: add --yes.")
    return "\n".join(lines)


def _size(num_bytes: int) -> str:
    """3.2 MB, in powers of 1,000."""
    size, unit = float(num_bytes), 0
    while size >= 1000 and unit < 4:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {('kB', 'MB', 'GB', 'TB')[unit - 1]}"


def _print(text: str) -> None:
    print(text)  # noqa: T201
