"""Worker processes on this machine, one a slot of cores and GPUs."""

import heapq
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from neftune.errors import ConfigError
from neftune.records import Failure, PlannedRun
from neftune.study.executors.protocol import Perform, Watch
from neftune.study.executors.resources import Resources, largest_world, refuse, world_size
from neftune.study.executors.status import Line, Status
from neftune.study.store import Store
from neftune.study.worker import perform, perform_on, start_worker

_SECONDS_BETWEEN_TICKS = 0.5
_HINT = "killed, or out of memory? Try fewer --workers"


def on_this_machine(
    store: Store, runs: Sequence[PlannedRun], *, resources: Resources, watch: Watch, perform: Perform = perform
) -> Status:
    """Worker processes on this machine; each has its cores and GPUs, or its share of one."""
    refuse(resources, "local", ("address", "slurm"))
    line = Line(store, runs)
    slots = _Slots(slots_here(resources, line), resources)
    flights: dict[Future[Failure | None], tuple[PlannedRun, list[int]]] = {}
    try:
        while not line.is_over:
            while run := line.start_next(slots.num_free):
                taken = slots.take(world_size(run))
                flights[slots.submit(taken, store, run, perform)] = run, taken
            watch(line.status)
            finished, _ = wait(flights, timeout=_SECONDS_BETWEEN_TICKS, return_when=FIRST_COMPLETED)
            for future in finished:
                run, taken = flights.pop(future)
                _land(line, slots, future, run, taken)
        slots.close()
    except BaseException:
        slots.stop()
        raise
    watch(line.status)
    return line.status


def slots_here(resources: Resources, line: Line) -> list[str]:
    """The GPUs of each slot of this machine.

    Raises:
        ConfigError: There are fewer GPUs or workers than asked for.
    """
    gpus = [] if resources.gpus_per_run == 0 else visible_gpus()
    return make_slots(resources, gpus, largest_world(line.status.waiting.values()))


def visible_gpus() -> list[str]:
    """The GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return names[:count] if names else [str(index) for index in range(count)]


def make_slots(resources: Resources, gpus: list[str], largest: int = 1) -> list[str]:
    """The GPUs of each slot, as CUDA_VISIBLE_DEVICES names them ("" none).

    A run takes as many slots as it has processes.

    Args:
        resources: What a run takes.
        gpus: The machine's GPUs.
        largest: The most processes that a run has.

    Raises:
        ConfigError: There are fewer GPUs or workers than asked for.
    """
    asked = resources.gpus_per_run
    per_run = (1.0 if gpus else 0.0) if asked is None else asked
    if not per_run:
        number = resources.workers or max(1, (os.cpu_count() or 1) // resources.threads, largest)
        slots = [""] * number
    else:
        slots = _gpu_slots(resources, per_run, gpus, largest)
    if largest > len(slots):
        raise ConfigError(
            f"a run of {largest} processes needs {largest} workers, got {len(slots)}. "
            "Give --workers as many, or a smaller train.world_size."
        )
    return slots


def _gpu_slots(resources: Resources, per_run: float, gpus: list[str], largest: int) -> list[str]:
    if per_run < 1 and largest > 1:
        raise ConfigError(
            f"a run of {largest} processes needs a whole GPU for each, got --gpus-per-run {per_run:g}. Use 1."
        )
    if per_run < 1:
        # Neighbours lie on different GPUs, so that few runs spread over all of them.
        slots = [gpu for _ in range(resources.runs_per_gpu) for gpu in gpus]
    else:
        each = int(per_run)
        slots = [",".join(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]
    wanted = resources.workers or max(1, largest)
    if len(slots) < wanted:
        raise ConfigError(
            f"{wanted} runs or processes at a time with {per_run:g} GPUs each need {wanted * per_run:g} GPUs, got "
            f"{len(gpus)}. Use fewer --workers, or a smaller --gpus-per-run (0.5 puts two runs on a GPU, 0 is the CPU)."
        )
    return slots[: resources.workers] if resources.workers else slots


@dataclass
class _Slot:
    devices: str
    pool: ProcessPoolExecutor | None = None


class _Slots:
    """A worker process for each slot that was ever needed; a run of several processes takes several slots."""

    def __init__(self, devices: Sequence[str], resources: Resources) -> None:
        self.slots = [_Slot(one) for one in devices]
        self.threads = resources.threads
        self.free = list(range(len(self.slots)))

    @property
    def num_free(self) -> int:
        return len(self.free)

    def take(self, number: int) -> list[int]:
        """The first free slots: one that has had a worker before has it still."""
        return [heapq.heappop(self.free) for _ in range(number)]

    def give_back(self, taken: list[int]) -> None:
        for index in taken:
            heapq.heappush(self.free, index)

    def submit(self, taken: list[int], store: Store, run: PlannedRun, perform: Perform) -> Future[Failure | None]:
        """Start a run in the first slot's worker, with all slots' GPUs."""
        together = ",".join(devices for index in taken if (devices := self.slots[index].devices))
        first = self.slots[taken[0]]
        if first.pool is None:
            first.pool = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=start_worker,
                initargs=(self.threads, os.getpid(), first.devices),
            )
        return first.pool.submit(perform_on, together, perform, store.root, run)

    def drop_worker(self, index: int) -> None:
        """Forget a dead worker; the slot gets a new one."""
        if pool := self.slots[index].pool:
            pool.shutdown(wait=False, cancel_futures=True)
        self.slots[index].pool = None

    def close(self) -> None:
        """Let every worker end."""
        for slot in self.slots:
            if slot.pool:
                slot.pool.shutdown()

    def stop(self) -> None:
        """End the workers now; an unfinished run goes on from its checkpoints at the next start."""
        pools = [slot.pool for slot in self.slots if slot.pool]
        processes = [one for pool in pools for one in (pool._processes or {}).values()]  # pyright: ignore[reportPrivateUsage]
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _land(line: Line, slots: _Slots, future: Future[Failure | None], run: PlannedRun, taken: list[int]) -> None:
    """What a run's end means for the line and the slots."""
    try:
        failure = future.result()
    except BrokenProcessPool:
        slots.drop_worker(taken[0])
        line.worker_died(run, _HINT)
    else:
        line.end(run, failure)
    slots.give_back(taken)
