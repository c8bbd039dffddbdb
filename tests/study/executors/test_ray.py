"""Tasks on a two-node Ray cluster on this machine: a node lost, a worker killed, a driver killed, GPUs in parts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from neftune.errors import ConfigError
from neftune.study.executors import Resources, Status, executors
from neftune.study.executors.ray import _task
from neftune.study.store import Store
from tests.ray_here import ray_here
from tests.scripted_runs import attempts, perform_script, scripted_run

ray_here()
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

RAY = executors["ray"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core; the head stays, others come and go."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@contextmanager
def one_more(cluster: Any, **resources: Any) -> Iterator[Any]:
    node = cluster.add_node(**resources)
    try:
        yield node
    finally:
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)
        cluster.wait_for_nodes()


def perform(cluster: Any, root: Path, runs: list[Any], watch: Callable[[Status], None], **resources: Any) -> Status:
    return RAY(
        Store(root),
        runs,
        resources=Resources(address=cluster.address, **resources),
        watch=watch,
        perform=perform_script,
    )


def ignore(status: Status) -> None:
    pass


def when(condition: Callable[[], bool], act: Callable[[], None]) -> Callable[[Status], None]:
    """Act once, as soon as the condition holds."""
    acted: list[bool] = []

    def watch(status: Status) -> None:
        if not acted and condition():
            acted.append(True)
            act()

    return watch


def test_both_nodes_work_and_what_is_done_is_kept(cluster: Any, tmp_path: Path):
    names = [str(number) for number in range(6)]
    gate = tmp_path / "gate"
    both = when(lambda: bool(attempts(tmp_path, "0") and attempts(tmp_path, "1")), gate.touch)
    runs = [scripted_run(name, until=str(gate)) for name in names]
    status = perform(cluster, tmp_path, runs, both, threads=1)
    assert {run.run_id for run in status.done} == set(names)
    assert len({attempts(tmp_path, name)[0]["node"] for name in names}) == 2
    again = perform(cluster, tmp_path, [*runs, scripted_run("more", after="0")], ignore)
    assert len(again.done) == 7
    assert {len(attempts(tmp_path, name)) for name in names} == {1}
    assert attempts(tmp_path, "more")[0]["threads"] == "1"


def test_a_lost_node_costs_no_run(cluster: Any, tmp_path: Path):
    """The run that was on it starts again on another one; those on other nodes are not disturbed."""
    gate = tmp_path / "gate"
    runs = [scripted_run(str(number), until=str(gate)) for number in range(5)]
    with one_more(cluster, num_cpus=1) as node:

        def there() -> dict[str, int]:
            """The runs that were on the node, with their processes."""
            seen = {run.run_id: one for run in runs for one in attempts(tmp_path, run.run_id)[:1]}
            return {name: one["pid"] for name, one in seen.items() if one["node"] == node.node_id}

        def lose() -> None:
            cluster.remove_node(node, allow_graceful=False)
            soon(lambda: [pid for pid in there().values() if not is_alive(pid)], number=1)
            gate.touch()

        status = perform(cluster, tmp_path, runs, when(lambda: bool(there()), lose))
        assert len(status.done) == 5
        assert not status.failed
        assert len(there()) == 1
    for run in runs:
        seen = attempts(tmp_path, run.run_id)
        assert len(seen) == (2 if run.run_id in there() else 1)
        assert seen[-1]["node"] != node.node_id


def test_a_run_that_kills_its_worker_is_given_up_and_others_are_not(cluster: Any, tmp_path: Path):
    runs = [
        scripted_run("bad", dies=9),
        scripted_run("once", dies=1),
        scripted_run("good"),
        scripted_run("wrong", fails=True),
    ]
    runs.append(scripted_run("control", after="bad"))
    status = perform(cluster, tmp_path, runs, ignore)
    assert {run.run_id for run in status.done} == {"once", "good"}
    errors = {name: failure.error for name, failure in status.failed.items()}
    assert errors == {"bad": "WorkerDied", "wrong": "DivergedError", "control": "WorkerDied"}
    assert len(attempts(tmp_path, "bad")) == 3


def test_gpus_in_parts_and_several_for_one_run(cluster: Any, tmp_path: Path):
    with one_more(cluster, num_cpus=8, num_gpus=2):
        gate = tmp_path / "gate"
        half = [scripted_run(f"half {number}", until=str(gate)) for number in range(4)]
        all_run = when(lambda: all(attempts(tmp_path, run.run_id) for run in half), gate.touch)
        assert len(perform(cluster, tmp_path, half, all_run, gpus_per_run=0.5).done) == 4
        two = scripted_run("two", world_size=2)
        on_cpu = perform(cluster, tmp_path, [scripted_run("cpu")], ignore, gpus_per_run=0)
        status = perform(cluster, tmp_path, [two, scripted_run("one")], ignore)
        assert len(status.done) == 2
        assert len(on_cpu.done) == 1
    gpus = [attempts(tmp_path, run.run_id)[0]["gpus"] for run in half]
    assert sorted(gpus) == ["0", "0", "1", "1"]
    assert sorted(attempts(tmp_path, "two")[0]["gpus"].split(",")) == ["0", "1"]
    assert attempts(tmp_path, "one")[0]["gpus"] in ("0", "1")
    assert attempts(tmp_path, "cpu")[0]["gpus"] == ""


@pytest.mark.parametrize(
    ("resources", "world_size", "message"),
    [
        ({"threads": 8}, 1, r"a node with 8 CPUs and 0 GPUs, got nodes with 1 CPUs and 0 GPUs\. Use fewer --threads"),
        ({"gpus_per_run": 0.5}, 1, r"1 CPUs and 0\.5 GPUs"),
    ],
)
def test_a_run_that_fits_nowhere_is_refused(
    cluster: Any, tmp_path: Path, resources: dict[str, Any], world_size: int, message: str
):
    with pytest.raises(ConfigError, match=message):
        perform(cluster, tmp_path, [scripted_run("large", world_size=world_size)], ignore, **resources)


DRIVER = """
import sys
from pathlib import Path
from neftune.study.executors import Resources, executors
from neftune.study.store import Store
from tests.scripted_runs import perform_script, scripted_run
if __name__ == "__main__":
    root, address, gate = sys.argv[1:]
    runs = [scripted_run(name, until=gate) for name in ("a", "b")]
    resources = Resources(address=address or None, workers=2, gpus_per_run=0)
    executors["ray"](Store(Path(root)), runs, resources=resources, watch=lambda status: None, perform=perform_script)
"""


@pytest.mark.parametrize("joins", [True, False], ids=["on a cluster", "on one of its own"])
def test_a_killed_driver_takes_its_tasks_with_it_and_the_next_one_goes_on(cluster: Any, tmp_path: Path, joins: bool):
    gate = tmp_path / "gate"
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), cluster.address if joins else "", str(gate)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    driver = start()
    workers = soon(lambda: [one["pid"] for name in "ab" for one in attempts(tmp_path, name)], number=2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    soon(lambda: [pid for pid in workers if not is_alive(pid)], number=2)
    gate.touch()
    _, said = start().communicate(timeout=120)
    assert Store(tmp_path).is_done("a"), said
    assert Store(tmp_path).is_done("b"), said


def soon(find: Callable[[], list[Any]], *, number: int) -> list[Any]:
    """What is found, once there is so much of it."""
    deadline = time.monotonic() + 120
    while len(found := find()) < number:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def is_alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_cluster_of_its_own_listens_on_the_loopback_alone(tmp_path: Path):
    import ray

    seen: list[str] = []

    def watch(status: Status) -> None:
        if ray.is_initialized():
            seen.extend(node["NodeManagerAddress"] for node in ray.nodes())

    status = RAY(
        Store(tmp_path), [scripted_run("a")], resources=Resources(workers=1), watch=watch, perform=perform_script
    )
    assert len(status.done) == 1
    assert set(seen) == {"127.0.0.1"}
    assert not ray.is_initialized()


def test_a_node_without_the_folder_says_so(tmp_path: Path):
    failure = _task(tmp_path / "elsewhere", tmp_path, scripted_run("a"), 1, False, perform_script)
    assert failure
    assert "must be a folder that every node shares" in failure.message
    assert not (tmp_path / "elsewhere").exists()


def test_a_result_that_does_not_arrive_is_no_success(cluster: Any, tmp_path: Path):
    status = RAY(
        Store(tmp_path),
        [scripted_run("a")],
        resources=Resources(address=cluster.address),
        watch=ignore,
        perform=perform_nothing,
    )
    assert "its result did not arrive" in status.failed["a"].message


def perform_nothing(root: Path, run: Any) -> None:
    json.dumps(run.run_id)


def test_no_cluster_at_the_address_is_wrong_input(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cluster that it can join at 127\.0\.0\.1:1"):
        RAY(Store(tmp_path), [scripted_run("a")], resources=Resources(address="127.0.0.1:1"), watch=ignore)
