"""What the terminal shows while runs are performed."""

import sys
import time
from itertools import islice
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from neftune.cli.study_status import clock
from neftune.study.executors import Status
from neftune.study.standing import run_name
from neftune.study.store import Store

_BAR = 30


class Progress:
    """Shows runs done, running and failed, live losses and the expected end.

    On a terminal a table that refreshes; elsewhere one line for every run that starts, ends or fails.

    Args:
        store: Where runs write their progress.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.started = time.time()
        self.done_before: int | None = None
        self.status: Status | None = None
        self.told: set[str] = set()
        self.done_told = 0
        self.failed_told = 0

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, status: Status) -> None:
        """Show where the runs stand."""
        if self.done_before is None:
            self.done_before = len(status.done)
            self.told = {f"done {run.run_id}" for run in status.done}
            if self.done_before:
                self.console.print(f"{self.done_before} runs were done before and are kept.", highlight=False)
        if self.live:
            self.live.update(self._table(status), refresh=True)
        else:
            self._lines(status)

    def _table(self, status: Status) -> Table:
        filled = round(_BAR * len(status.done) / max(status.total, 1))
        table = Table.grid(padding=(0, 2))
        failed = f", [red]{len(status.failed)} failed[/]" if status.failed else ""
        table.add_row(
            f"[green]{'━' * filled}[/][dim]{'━' * (_BAR - filled)}[/]",
            f"{len(status.done)}/{status.total} runs{failed}",
            f"{clock(time.time() - self.started)} gone, {self._remaining(status)}",
        )
        for run in status.running.values():
            values = self.store.read_progress(run.run_id)
            table.add_row(escape(f"  {run_name(run)}"), _stage(values), _loss(values), style="dim")
        return table

    def _lines(self, status: Status) -> None:
        """One line for each run that started, ended or failed since the last call; each stage has its own status."""
        if status is not self.status:
            self.status, self.done_told, self.failed_told = status, 0, 0
        for run_id, run in status.running.items():
            self._line(status, f"running {run_id}", f"running {run_name(run)}")
        for run in status.done[self.done_told :]:
            self._line(status, f"done {run.run_id}", f"done    {run_name(run)}  {self._remaining(status)}")
        for run_id, failure in islice(status.failed.items(), self.failed_told, None):
            self._line(status, f"failed {run_id}", f"failed  {run_id}: {failure.message}")
        self.done_told, self.failed_told = len(status.done), len(status.failed)

    def _line(self, status: Status, key: str, text: str) -> None:
        if key in self.told:
            return
        self.told.add(key)
        count = f"[{len(status.done)}/{status.total}]"
        print(f"{count:>9} {text}", file=sys.stderr, flush=True)  # noqa: T201

    def _remaining(self, status: Status) -> str:
        finished = len(status.done) - (self.done_before or 0)
        left = len(status.waiting) + len(status.running)
        if not finished:
            return "end not known yet"
        pace = (time.time() - self.started) / finished
        return f"about {clock(pace * max(left - len(status.running) / 2, 0))} left"


def _stage(values: dict[str, Any]) -> str:
    if "num_steps" in values and "step" in values:
        return f"{values.get('stage')} {values['step']}/{values['num_steps']}"
    return str(values.get("stage", "starting"))


def _loss(values: dict[str, Any]) -> str:
    return f"loss {values['loss']:.3f}" if isinstance(values.get("loss"), float) else ""
