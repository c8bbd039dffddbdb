"""Where the runs of a study stand, and which of them is next."""

import heapq
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from neftune.records import Failure, PlannedRun
from neftune.study.executors.resources import world_size
from neftune.study.store import Store

ATTEMPTS = 3
"""How often a run is tried when its worker process dies."""

NODE_LOSSES = 10
"""How often a run is tried when the machine that it is on is lost, which is no fault of the run's."""


@dataclass
class Status:
    """Where the runs of a study stand; a run that several arms share is there once.

    Attributes:
        waiting: Not started, by run id.
        running: Being performed, by run id.
        done: Finished, now or earlier, in the order they ended.
        failed: Not finished, and why, by run id.
    """

    waiting: dict[str, PlannedRun] = field(default_factory=dict[str, PlannedRun])
    running: dict[str, PlannedRun] = field(default_factory=dict[str, PlannedRun])
    done: list[PlannedRun] = field(default_factory=list[PlannedRun])
    failed: dict[str, Failure] = field(default_factory=dict[str, Failure])

    @property
    def total(self) -> int:
        """How many runs there are."""
        return len(self.waiting) + len(self.running) + len(self.done) + len(self.failed)


class Line:
    """Runs in line: each step costs the same however many wait.

    Args:
        store: Says which are done already.
        runs: In order of preference; a run with `after` comes into line once that one is done.
        alone: Whether a run that killed its worker is tried again with nothing beside it, which may have been what
            took its memory.
    """

    def __init__(self, store: Store, runs: Sequence[PlannedRun], *, alone: bool = True) -> None:
        self.status = Status()
        self._alone = alone
        self._order = {run.run_id: index for index, run in reversed(list(enumerate(runs)))}
        self._ready: list[tuple[int, str]] = []
        self._again: deque[str] = deque()
        self._needing: dict[str, list[str]] = {}
        self._deaths: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        todo: list[PlannedRun] = []
        for run in {run.run_id: run for run in runs}.values():
            if store.is_done(run.run_id):
                self.status.done.append(run)
            else:
                self.status.waiting[run.run_id] = run
                todo.append(run)
        for run in todo:
            if run.after is None or (run.after not in self.status.waiting and store.is_done(run.after)):
                self._queue(run.run_id)
            else:
                self._needing.setdefault(run.after, []).append(run.run_id)
        for need in [one for one in self._needing if one not in self.status.waiting]:
            self._fail_needing(need, Failure(need, "StoreError", "it is neither done nor part of what is performed."))

    @property
    def is_over(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self.status.waiting and not self.status.running

    def start_next(self, room: int) -> PlannedRun | None:
        """The next run, now running; None where none can start.

        The next one waits for its room: no smaller run overtakes it.

        Args:
            room: Processes that there is room for.
        """
        if self._ready:
            run_id = self._ready[0][1]
        elif self._again and not (self._alone and self.status.running):
            run_id = self._again[0]
        else:
            return None
        run = self.status.waiting[run_id]
        if world_size(run) > room:
            return None
        if self._ready:
            heapq.heappop(self._ready)
        else:
            self._again.popleft()
        del self.status.waiting[run_id]
        self.status.running[run_id] = run
        return run

    def end(self, run: PlannedRun, failure: Failure | None) -> None:
        """A running run is done, or failed; runs that needed it come into line, or fail with it."""
        del self.status.running[run.run_id]
        if failure is None:
            self.status.done.append(run)
            for run_id in self._needing.pop(run.run_id, []):
                self._queue(run_id)
        else:
            self.status.failed[run.run_id] = failure
            self._fail_needing(run.run_id, failure)

    def worker_died(self, run: PlannedRun, hint: str) -> None:
        """The run's worker died with it: it is tried again at the end, or given up.

        Args:
            run: The run.
            hint: What may have killed it and what to do.
        """
        self._deaths[run.run_id] += 1
        if self._deaths[run.run_id] < ATTEMPTS:
            self._put_back(run)
            self._again.append(run.run_id)
        else:
            self.end(run, Failure(run.run_id, "WorkerDied", f"its worker process died {ATTEMPTS} times ({hint})."))

    def node_lost(self, run: PlannedRun) -> None:
        """The machine that a run was on is gone: the run is next in line, or given up after many such losses."""
        self._losses[run.run_id] += 1
        if self._losses[run.run_id] < NODE_LOSSES:
            self._put_back(run)
            self._queue(run.run_id)
        else:
            message = f"the machine that it ran on was lost {NODE_LOSSES} times."
            self.end(run, Failure(run.run_id, "NodeLost", message))

    def _put_back(self, run: PlannedRun) -> None:
        del self.status.running[run.run_id]
        self.status.waiting[run.run_id] = run

    def _queue(self, run_id: str) -> None:
        heapq.heappush(self._ready, (self._order[run_id], run_id))

    def _fail_needing(self, need: str, cause: Failure) -> None:
        """Fail the runs that needed ``need``, and those that needed them."""
        failing = deque([(need, cause)])
        while failing:
            need, cause = failing.popleft()
            for run_id in self._needing.pop(need, []):
                message = f"the run it must match, {need}, failed: {cause.message}"
                failure = Failure(run_id, cause.error, message)
                del self.status.waiting[run_id]
                self.status.failed[run_id] = failure
                failing.append((run_id, failure))
