"""Tasks on a Ray cluster, one a run; results come through the folder that all nodes share.

Ray only says where a run goes: the store says what is done, and its claims keep two drivers apart.
"""

import os
import socket
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from neftune.errors import ConfigError, MissingExtraError, WorkError
from neftune.records import Failure, PlannedRun
from neftune.study.executors.local import slots_here
from neftune.study.executors.protocol import Perform, Watch
from neftune.study.executors.resources import Resources, largest_world, refuse, world_size
from neftune.study.executors.status import Line, Status
from neftune.study.store import Store
from neftune.study.worker import perform, prepare_process

_SECONDS_BETWEEN_TICKS = 0.5
_SECONDS_BETWEEN_COUNTS = 5.0
_SECONDS_TO_ANSWER = 10.0
_SECONDS_WITHOUT_NODES = 600.0
_OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory for Ray's objects: only plans and failures travel that way."""
_HINT = "killed, or out of memory? Give each run more --threads or GPUs, so that fewer share a node"


def on_ray(
    store: Store, runs: Sequence[PlannedRun], *, resources: Resources, watch: Watch, perform: Perform = perform
) -> Status:
    """Tasks on a Ray cluster that is there (--address), or on one started on this machine."""
    refuse(resources, "ray", ("slurm",))
    line = Line(store, runs)
    if not line.is_over:
        with _connected(resources, line) as ray:
            tasks = _Tasks(ray, resources, store, perform)
            tasks.check_room(largest_world(line.status.waiting.values()))
            try:
                _drive(line, tasks, watch)
            except BaseException:
                tasks.cancel()
                raise
    watch(line.status)
    return line.status


def _drive(line: Line, tasks: "_Tasks", watch: Watch) -> None:
    while not line.is_over:
        while run := line.start_next(tasks.room()):
            tasks.submit(run)
        watch(line.status)
        for run, reference in tasks.finished():
            tasks.land(line, run, reference)


@contextmanager
def _connected(resources: Resources, line: Line) -> Generator[Any]:
    """Ray, connected for the study's time to the cluster it was given, or else to one of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = resources.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # Read when Ray is imported: a cluster of one machine then listens on the loopback interface alone.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise MissingExtraError("the executor ray needs Ray. Install it: pip install 'neftune[ray]'.") from error
    # Ray tells of lost nodes on stdout, which is for results.
    with redirect_stdout(sys.stderr):
        try:
            if address:
                _check_reachable(address)
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            else:
                _start_here(ray, resources, line)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(
                f"the executor ray needs a cluster that it can join at {address or 'this machine'}: {error}. "
                "Start one (ray start --head), or leave --address out."
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Find out in seconds what Ray tries for minutes.

    Raises:
        OSError: Nobody answers there.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()


def _start_here(ray: Any, resources: Resources, line: Line) -> None:
    slots = slots_here(resources, line)
    gpus = {gpu for devices in slots for gpu in devices.split(",") if gpu}
    ray.init(
        address="local",
        num_cpus=len(slots) * resources.threads,
        num_gpus=len(gpus),
        object_store_memory=_OBJECT_STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )


@dataclass
class _Node:
    cpus: float
    gpus: float


class _Tasks:
    """The tasks in flight, and how many more the cluster has room for."""

    def __init__(self, ray: Any, resources: Resources, store: Store, perform: Perform) -> None:
        self.ray = ray
        self.resources = resources
        self.store = store
        self.perform = perform
        self.flights: dict[Any, PlannedRun] = {}
        self.nodes = self._nodes()
        self.counted = self.had_nodes = time.monotonic()
        asked = resources.gpus_per_run
        has_gpus = any(node.gpus for node in self.nodes)
        self.gpus = (1.0 if has_gpus else 0.0) if asked is None else asked
        # No retries of Ray's own: a run that kills its worker must not be tried for ever.
        self.task = ray.remote(max_retries=0, scheduling_strategy="SPREAD")(_task)

    def check_room(self, largest: int) -> None:
        """Refuse a run that no node can take; Ray would wait for one for ever.

        Raises:
            ConfigError: The largest run fits on no node.
        """
        if self.gpus and self.gpus < 1 and largest > 1:
            raise ConfigError(
                f"a run of {largest} processes needs a whole GPU for each, got --gpus-per-run {self.gpus:g}. Use 1."
            )
        if max((self._fit(node) for node in self.nodes), default=0) < largest:
            cpus, gpus = largest * self.resources.threads, largest * self.gpus
            found = ", ".join(sorted({f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in self.nodes}))
            raise ConfigError(
                f"a run needs a node with {cpus} CPUs and {gpus:g} GPUs, got nodes with {found or 'nothing'}. "
                "Use fewer --threads, a smaller --gpus-per-run or train.world_size, or larger nodes."
            )

    def room(self) -> int:
        """Processes that more runs may have.

        Raises:
            WorkError: All nodes that a run fits on have been gone for long.
        """
        if time.monotonic() - self.counted > _SECONDS_BETWEEN_COUNTS:
            self.nodes, self.counted = self._nodes(), time.monotonic()
            if any(map(self._fit, self.nodes)):
                self.had_nodes = self.counted
            elif self.counted - self.had_nodes > _SECONDS_WITHOUT_NODES:
                raise WorkError(
                    f"a study on Ray needs a node, got none with room for a run in {_SECONDS_WITHOUT_NODES / 60:g} "
                    "minutes. What is finished is kept; start it again once there are nodes."
                )
        capacity = self.resources.workers or sum(map(self._fit, self.nodes))
        return capacity - sum(map(world_size, self.flights.values()))

    def submit(self, run: PlannedRun) -> None:
        """Put a run into Ray's queue."""
        processes = world_size(run)
        task = self.task.options(num_cpus=processes * self.resources.threads, num_gpus=processes * self.gpus)
        root, here = self.store.root.resolve(), Path.cwd()
        reference = task.remote(root, here, run, self.resources.threads, self.gpus > 0, self.perform)
        self.flights[reference] = run

    def finished(self) -> list[tuple[PlannedRun, Any]]:
        """The runs that ended, waiting a moment for the first."""
        if not self.flights:
            time.sleep(_SECONDS_BETWEEN_TICKS)
            return []
        first, rest = self.ray.wait(list(self.flights), num_returns=1, timeout=_SECONDS_BETWEEN_TICKS)
        more: list[Any] = self.ray.wait(rest, num_returns=len(rest), timeout=0)[0] if first and rest else []
        return [(self.flights.pop(one), one) for one in [*first, *more]]

    def land(self, line: Line, run: PlannedRun, reference: Any) -> None:
        """What a task's end means for its run."""
        from ray import exceptions

        try:
            failure = self.ray.get(reference)
        except (exceptions.NodeDiedError, exceptions.LocalRayletDiedError):
            line.node_lost(run)
            return
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError):
            line.worker_died(run, _HINT)
            return
        except exceptions.RayError as error:
            failure = Failure(run.run_id, type(error).__name__, _last_line(error))
        if failure is None and not self._has_arrived(run):
            failure = _not_shared(self.store.root, run, "its result did not arrive")
        line.end(run, failure)

    def cancel(self) -> None:
        """End what is running; it goes on from its checkpoints at the next start."""
        for reference in self.flights:
            self.ray.cancel(reference, force=True)

    def _has_arrived(self, run: PlannedRun) -> bool:
        if not self.store.is_done(run.run_id) and (folder := self.store.run_folder(run.run_id)).is_dir():
            # A network file system may remember that a file was not there until its folder is listed.
            list(folder.iterdir())
        return self.store.is_done(run.run_id)

    def _nodes(self) -> list[_Node]:
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [_Node(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in alive]

    def _fit(self, node: _Node) -> int:
        """Processes of runs that a node has room for."""
        by_cpus = int(node.cpus // self.resources.threads)
        if not self.gpus:
            return by_cpus
        by_gpus = int(node.gpus) * self.resources.runs_per_gpu if self.gpus < 1 else int(node.gpus // self.gpus)
        return min(by_cpus, by_gpus)


def _task(
    root: Path, driver_folder: Path, run: PlannedRun, threads: int, has_gpus: bool, perform: Perform
) -> Failure | None:
    """One run on the node that Ray chose; Ray ends it when the driver's end comes."""
    if not (root / "runs").is_dir():
        return _not_shared(root, run, f"node {socket.gethostname()} has no such folder")
    if driver_folder.is_dir():
        os.chdir(driver_folder)
    prepare_process(threads, None if has_gpus else "")
    return perform(root, run)


def _not_shared(root: Path, run: PlannedRun, reason: str) -> Failure:
    message = f"{root} must be a folder that every node shares, but {reason}. Choose another --out."
    return Failure(run.run_id, "StoreError", message)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"Ray could not perform it: {lines[-1]}"
