"""Where runs are performed: one registry entry an executor."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Protocol

from neftune.records import Failure, PlannedRun
from neftune.registry import Registry
from neftune.study.store import Store
from neftune.study.worker import perform, start_worker

ATTEMPTS = 2
"""How often a run is tried when its worker process dies."""


@dataclass
class Status:
    """Where the runs of a study stand.

    Attributes:
        waiting: Not started.
        running: Being performed.
        done: Finished, now or earlier.
        failed: Not finished, and why.
        suspects: Ids of runs that were running when a worker died; they are tried again one at a time, so that the one
            that kills its worker costs the others nothing.
    """

    waiting: list[PlannedRun]
    running: list[PlannedRun] = field(default_factory=list[PlannedRun])
    done: list[PlannedRun] = field(default_factory=list[PlannedRun])
    failed: dict[str, Failure] = field(default_factory=dict[str, Failure])
    suspects: set[str] = field(default_factory=set[str])


Watch = Callable[[Status], None]
"""Called twice a second, and whenever a run starts or ends."""


class Executor(Protocol):
    """Performs runs and returns once each is done or failed."""

    def __call__(self, store: Store, runs: Sequence[PlannedRun], *, workers: int, threads: int, watch: Watch) -> Status:
        """Perform ``runs``.

        Args:
            store: Where results go; a run found done there is not performed again.
            runs: In order of preference; a run with `after` starts once that one is done.
            workers: Runs at a time.
            threads: CPU threads per run.
            watch: Told where the runs stand.
        """
        ...


executors: Registry[Executor] = Registry("executor")


@executors.register("local")
def local(store: Store, runs: Sequence[PlannedRun], *, workers: int, threads: int, watch: Watch) -> Status:
    """Worker processes on this machine. When one dies, the runs in flight are tried again, one at a time."""
    status = Status(waiting=[run for run in runs if not store.is_done(run.run_id)])
    status.done = [run for run in runs if store.is_done(run.run_id)]
    attempts: dict[str, int] = {}
    while status.waiting:
        pool = ProcessPoolExecutor(
            max_workers=min(workers, len(status.waiting)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=start_worker,
            initargs=(threads, os.getpid()),
        )
        try:
            _drive(pool, store, status, workers, watch)
            pool.shutdown()
        except BrokenProcessPool:
            _count_attempts(status, attempts)
            _stop(pool)
        except BaseException:
            _stop(pool)
            raise
    watch(status)
    return status


def _drive(pool: ProcessPoolExecutor, store: Store, status: Status, workers: int, watch: Watch) -> None:
    """Keep the pool busy until nothing waits and nothing runs."""
    futures: dict[Future[Failure | None], PlannedRun] = {}
    while status.waiting or futures:
        at_once = 1 if status.suspects else workers
        for run in _ready(status, at_once - len(futures)):
            status.waiting.remove(run)
            status.running.append(run)
            futures[pool.submit(perform, store.root, run)] = run
        watch(status)
        finished, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in finished:
            failure = future.result()
            run = futures.pop(future)
            status.running.remove(run)
            status.suspects.discard(run.run_id)
            if failure:
                status.failed[run.run_id] = failure
            else:
                status.done.append(run)


def _ready(status: Status, room: int) -> list[PlannedRun]:
    """Up to ``room`` runs whose needs are met; a run whose need has failed is failed here."""
    done = {run.run_id for run in status.done}
    ready: list[PlannedRun] = []
    for run in list(status.waiting):
        if run.after and run.after in status.failed:
            status.waiting.remove(run)
            cause = status.failed[run.after]
            status.failed[run.run_id] = Failure(
                run.run_id, cause.error, f"the run it must match, {run.after}, failed: {cause.message}"
            )
        elif len(ready) < room and (run.after is None or run.after in done):
            ready.append(run)
    return ready


def _count_attempts(status: Status, attempts: dict[str, int]) -> None:
    """After a worker died: put what was running back in line, or give it up after too many attempts."""
    alone = len(status.running) == 1
    for run in status.running:
        attempts[run.run_id] = attempts.get(run.run_id, 0) + alone
        if attempts[run.run_id] < ATTEMPTS:
            status.waiting.insert(0, run)
            status.suspects.add(run.run_id)
        else:
            status.suspects.discard(run.run_id)
            message = f"its worker process died {ATTEMPTS} times (killed, or out of memory?). Try fewer --workers."
            status.failed[run.run_id] = Failure(run.run_id, "WorkerDied", message)
    status.running.clear()


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers now; an unfinished run goes on from its checkpoints at the next start."""
    processes = list((pool._processes or {}).values())  # pyright: ignore[reportPrivateUsage]
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
