"""A run of several ranks on Ray: a placement group with a task a bundle, which start, fail and end as one."""

import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neftune.errors import NeftuneError
from neftune.records import Failure, PlannedRun
from neftune.study.executors.protocol import Perform

_SECONDS_TO_FOLLOW = 60.0
"""Until the other tasks of a group must have ended once one has failed; Ray takes half as long to miss a node."""

Outcome = Failure | Exception | None
"""How a task ended: as `Perform` says, or by what Ray raises."""


class Group:
    """The tasks of one run: the first performs it, the others start the ranks of their bundles.

    Args:
        ray: Ray, connected.
        run: The run.
        bundle: What each task takes: CPU and, where it takes any, GPU.
        count: How many tasks, each in a bundle of its own, packed onto as few nodes as Ray can.
        task: Performs the run on the node that it is called on, with the function that it is given.
        perform: What the first task performs the run with.
    """

    def __init__(
        self,
        ray: Any,
        run: PlannedRun,
        *,
        bundle: dict[str, float],
        count: int,
        task: Callable[[Perform], Failure | None],
        perform: Perform,
    ) -> None:
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Within

        self.ray = ray
        self.run = run
        self.count = count
        self.outcomes: dict[int, Outcome] = {}
        self.failed: float | None = None
        # Not detached: Ray removes it when the driver is gone.
        self.placement: Any = placement_group([bundle] * count, strategy="PACK")

        def remote(function: Callable[..., Any], index: int, cpus: float, gpus: float) -> Any:
            within = Within(self.placement, placement_group_bundle_index=index)
            return ray.remote(max_retries=0, num_cpus=cpus, num_gpus=gpus, scheduling_strategy=within)(function)

        meeting = remote(_meeting, 0, 0, 0).remote() if count > 1 else ""
        self.tasks: dict[Any, int] = {}
        for index in range(count):
            part = remote(_part, index, bundle["CPU"], bundle.get("GPU", 0))
            self.tasks[part.remote(meeting, count, index, task, perform if index == 0 else _assist)] = index

    def note(self, reference: Any, outcome: Outcome) -> None:
        """One of the tasks has ended."""
        self.outcomes[self.tasks.pop(reference)] = outcome
        if outcome is not None and self.failed is None:
            self.failed = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the run is done, or one task has failed and the others have ended or had their time to."""
        if 0 in self.outcomes and self.outcomes[0] is None:
            return True
        return self.failed is not None and (not self.tasks or time.monotonic() - self.failed > _SECONDS_TO_FOLLOW)

    def verdict(self) -> Outcome:
        """How the run ended: what was lost or killed comes first, for the others' errors follow from it.

        Where none has failed, the nodes that its tasks wait for are gone.
        """
        from ray import exceptions

        if 0 in self.outcomes and (self.count == 1 or self.outcomes[0] is None):
            return self.outcomes[0]
        failed = [one for _, one in sorted(self.outcomes.items()) if one is not None]
        if not failed:
            return exceptions.NodeDiedError("the nodes that its tasks need are gone")
        for kind in ((exceptions.NodeDiedError, exceptions.LocalRayletDiedError), exceptions.RayError):
            for one in failed:
                if isinstance(one, kind):
                    return one
        # A task that did not follow was of no more use than a dead one.
        if self.tasks or any(isinstance(one, Failure) and one.error == "RankDiedError" for one in failed):
            return exceptions.WorkerCrashedError()
        return failed[0]

    def end(self) -> None:
        """Leave no task and no placement group."""
        from ray.util.placement_group import remove_placement_group

        for reference in self.tasks:
            self.ray.cancel(reference, force=True)
        remove_placement_group(self.placement)


def _meeting() -> str:
    """HOST:PORT of this node where the ranks of a run can find each other."""
    from ray import util

    address = str(util.get_node_ip_address())  # pyright: ignore
    with socket.socket() as free:
        free.bind((address, 0))
        return f"{address}:{free.getsockname()[1]}"


def _part(
    meeting: str, count: int, index: int, task: Callable[[Perform], Failure | None], perform: Perform
) -> Failure | None:
    with _among(count, index, meeting):
        return task(perform)


@contextmanager
def _among(count: int, index: int, meeting: str) -> Generator[None]:
    """As `Nodes.from_environment` reads it; Ray gives the process other tasks later."""
    values = {"NEFTUNE_NODES": str(count), "NEFTUNE_NODE": str(index), "NEFTUNE_RENDEZVOUS": meeting or "127.0.0.1:0"}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _assist(root: Path, planned: PlannedRun) -> Failure | None:
    """Start this task's ranks of a run that the group's first task performs."""
    from neftune.config import RunConfig
    from neftune.study.launch import assist
    from neftune.study.nodes import Nodes
    from neftune.study.run import check_unchanged
    from neftune.study.store import Store

    try:
        config = RunConfig.model_validate(planned.config)
        check_unchanged(planned.run_id, config)
        assist(config, Store(root).run_folder(planned.run_id), Nodes.from_environment())
    except NeftuneError as error:
        return Failure(planned.run_id, type(error).__name__, str(error))
    return None
