"""Tasks on a Ray cluster, one a run or a placement group of them; results come through the folder that all nodes share.

Ray only says where a run goes: the store says what is done, and its claims keep two drivers apart.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from neftune.errors import ConfigError, MissingExtraError, WorkError
from neftune.records import Failure, PlannedRun
from neftune.study.executors.group import Group, Outcome
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
        while run := line.start_next(tasks.room(line.status)):
            tasks.submit(run)
        watch(line.status)
        for run, outcome in tasks.finished():
            tasks.land(line, run, outcome)


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
        self.groups: list[Group] = []
        self.nodes = self._nodes()
        self.counted = self.had_nodes = time.monotonic()
        asked = resources.gpus_per_run
        has_gpus = any(node.gpus for node in self.nodes)
        self.gpus = (1.0 if has_gpus else 0.0) if asked is None else asked
        # No retries of Ray's own: a run that kills its worker must not be tried for ever.
        self.task = ray.remote(max_retries=0, scheduling_strategy="SPREAD")(_alone)

    def check_room(self, largest: int) -> None:
        """Refuse a run that the nodes cannot take; Ray would wait for one for ever.

        Raises:
            ConfigError: The largest run does not fit on the nodes.
        """
        if self.gpus and self.gpus < 1 and largest > 1:
            raise ConfigError(
                f"a run of {largest} processes needs a whole GPU for each, got --gpus-per-run {self.gpus:g}. Use 1."
            )
        if self.resources.workers and self.resources.workers < largest:
            raise ConfigError(
                f"a run of {largest} processes needs as many workers, got --workers {self.resources.workers}. "
                "Use more, or leave it out."
            )
        if self._share(largest) is None:
            cpus, gpus = self.resources.threads, self.gpus
            found = ", ".join(sorted({f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in self.nodes}))
            each = "" if largest == 1 else f" for each of its {largest} processes"
            raise ConfigError(
                f"a run needs a node with {cpus} CPUs and {gpus:g} GPUs{each}, got nodes with {found or 'nothing'}. "
                "Use fewer --threads, a smaller --gpus-per-run or train.world_size, or more or larger nodes."
            )

    def room(self, status: Status) -> int:
        """Processes that more runs may have.

        Args:
            status: Where the runs stand.

        Raises:
            WorkError: The nodes that a run fits on have been gone for long.
        """
        if time.monotonic() - self.counted > _SECONDS_BETWEEN_COUNTS:
            self.nodes, self.counted = self._nodes(), time.monotonic()
            needing = self._in_flight() or status.waiting.values()
            if self._share(largest_world(needing)) is not None:
                self.had_nodes = self.counted
            elif self.counted - self.had_nodes > _SECONDS_WITHOUT_NODES:
                raise WorkError(
                    f"a study on Ray needs a node, got none with room for a run in {_SECONDS_WITHOUT_NODES / 60:g} "
                    "minutes. What is finished is kept; start it again once there are nodes."
                )
        capacity = self.resources.workers or sum(map(self._fit, self.nodes))
        return capacity - sum(map(world_size, self._in_flight()))

    def submit(self, run: PlannedRun) -> None:
        """Put a run into Ray's queue."""
        world, threads = world_size(run), self.resources.threads
        task = partial(_task, self.store.root.resolve(), Path.cwd(), run, threads, self.gpus > 0)
        if world == 1:
            one = self.task.options(num_cpus=threads, num_gpus=self.gpus)
            self.flights[one.remote(task, self.perform)] = run
            return
        share = self._share(world) or 1
        bundle = {"CPU": float(share * threads)} | ({"GPU": share * self.gpus} if self.gpus else {})
        self.groups.append(Group(self.ray, run, bundle=bundle, count=world // share, task=task, perform=self.perform))

    def finished(self) -> list[tuple[PlannedRun, Outcome]]:
        """The runs that ended, and how, waiting a moment for the first."""
        ended: list[tuple[PlannedRun, Outcome]] = []
        for reference in self._ended_tasks():
            if reference in self.flights:
                ended.append((self.flights.pop(reference), self._outcome(reference)))
            else:
                group = next(group for group in self.groups if reference in group.tasks)
                group.note(reference, self._outcome(reference))
        for group in [group for group in self.groups if group.is_over or self._has_lost_its_nodes(group)]:
            self.groups.remove(group)
            ended.append((group.run, group.verdict()))
            group.end()
        return ended

    def land(self, line: Line, run: PlannedRun, outcome: Outcome) -> None:
        """What a run's end means for it."""
        from ray import exceptions

        if isinstance(outcome, (exceptions.NodeDiedError, exceptions.LocalRayletDiedError)):
            line.node_lost(run)
        elif isinstance(outcome, (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError)):
            line.worker_died(run, _HINT)
        elif isinstance(outcome, Exception):
            line.end(run, Failure(run.run_id, type(outcome).__name__, _last_line(outcome)))
        elif outcome is None and not self._has_arrived(run):
            line.end(run, _not_shared(self.store.root, run, "its result did not arrive"))
        else:
            line.end(run, outcome)

    def cancel(self) -> None:
        """End what is running; it goes on from its checkpoints at the next start."""
        for reference in self.flights:
            self.ray.cancel(reference, force=True)
        for group in self.groups:
            group.end()

    def _has_lost_its_nodes(self, group: Group) -> bool:
        """Whether the nodes left cannot take the group as it is, but could in smaller shares."""
        world = world_size(group.run)
        return (share := self._share(world)) is not None and share < world // group.count

    def _ended_tasks(self) -> list[Any]:
        tasks = [*self.flights, *(task for group in self.groups for task in group.tasks)]
        if not tasks:
            time.sleep(_SECONDS_BETWEEN_TICKS)
            return []
        first, rest = self.ray.wait(tasks, num_returns=1, timeout=_SECONDS_BETWEEN_TICKS)
        return [*first, *(self.ray.wait(rest, num_returns=len(rest), timeout=0)[0] if first and rest else [])]

    def _outcome(self, reference: Any) -> Outcome:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            return error

    def _in_flight(self) -> list[PlannedRun]:
        return [*self.flights.values(), *(group.run for group in self.groups)]

    def _has_arrived(self, run: PlannedRun) -> bool:
        if not self.store.is_done(run.run_id) and (folder := self.store.run_folder(run.run_id)).is_dir():
            # A network file system may remember that a file was not there until its folder is listed.
            list(folder.iterdir())
        return self.store.is_done(run.run_id)

    def _nodes(self) -> list[_Node]:
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [_Node(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in alive]

    def _share(self, world: int) -> int | None:
        """How many of a run's processes each task takes, so that it needs few nodes; None where nodes have no room."""
        fits = [self._fit(node) for node in self.nodes]
        shares = [share for share in range(world, 0, -1) if world % share == 0]
        return next((share for share in shares if share * sum(fit // share for fit in fits) >= world), None)

    def _fit(self, node: _Node) -> int:
        """Processes of runs that a node has room for."""
        by_cpus = int(node.cpus // self.resources.threads)
        if not self.gpus:
            return by_cpus
        by_gpus = int(node.gpus) * self.resources.runs_per_gpu if self.gpus < 1 else int(node.gpus // self.gpus)
        return min(by_cpus, by_gpus)


def _alone(task: Callable[[Perform], Failure | None], perform: Perform) -> Failure | None:
    return task(perform)


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
