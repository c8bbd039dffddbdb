"""Runs of two ranks in a Ray placement group: two nodes of one core, and what is lost or killed on them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from neftune.config import Recipe
from neftune.errors import ConfigError
from neftune.recipe import validate
from neftune.records import PlannedRun
from neftune.study.arms import run_config, settings_of
from neftune.study.executors import Resources, Status, executors
from neftune.study.store import Store
from neftune.study.study import make_planner
from neftune.study.worker import perform
from tests.ray_here import ray_here
from tests.scripted_runs import scripted_run
from tests.study.test_launch import last_checkpoint, ranks_of, wait_for
from tests.tiny import make_recipe

ray_here()
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without a core, and two nodes of one."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PlannedRun]:
    recipe: dict[str, Any] = make_recipe(tmp_path_factory.mktemp("tiny"))
    recipe["train"] |= {"micro_batch_size": 2, "save_model": True}

    def plan(**train: Any) -> PlannedRun:
        values = validate(Recipe, {**recipe, "train": {**recipe["train"], **train}}, source="test")
        config = run_config({**settings_of(values), "noise": {"alpha": 5.0}})
        return PlannedRun(make_planner(values).identify(config), "alpha=5", "", 0, config.model_dump(mode="json"))

    return plan


@pytest.fixture(scope="module")
def long(planned: Callable[..., PlannedRun]) -> PlannedRun:
    return planned(world_size=2, epochs=30, checkpoints=12)


@pytest.fixture(scope="module")
def undisturbed(long: PlannedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    assert perform(root, long) is None
    return root


def on_ray(cluster: Any, root: Path, run: PlannedRun, watch: Callable[[Status], None]) -> Status:
    resources = Resources(address=cluster.address, gpus_per_run=0)
    return executors["ray"](Store(root), [run], resources=resources, watch=watch)


def agents(root: Path) -> list[psutil.Process]:
    """Each task of a run has an agent."""
    return [one for one in ranks_of(root) if "neftune.study.agent" in one.cmdline()]


def groups() -> list[dict[str, Any]]:
    """Ray's placement groups that are not removed, from within a watch."""
    from ray.util import placement_group_table

    return [one for one in placement_group_table().values() if one["state"] != "REMOVED"]


def result(root: Path, run: PlannedRun) -> dict[str, Any]:
    return json.loads((root / "runs" / run.run_id / "result.json").read_text())


def model(root: Path, run: PlannedRun) -> Path:
    return root / "runs" / run.run_id / "model" / "model.safetensors"


class Seen:
    """What a watch saw: nodes that bundles were on, the most agents, and acts once when the run is under way."""

    def __init__(self, root: Path, act: Callable[[], None] = lambda: None) -> None:
        self.root, self.act = root, act
        self.nodes: set[str] = set()
        self.bundles = self.agents = 0
        self.acted = False

    def __call__(self, status: Status) -> None:
        if not status.running:
            return
        for group in groups():
            self.bundles = max(self.bundles, len(group["bundles"]))
            self.nodes |= set(group["bundles_to_node_id"].values()) - {""}
        self.agents = max(self.agents, len(agents(self.root)))
        if not self.acted and last_checkpoint(self.root):
            self.acted = True
            self.act()


def same_weights(root: Path, run: PlannedRun, other: Path, reference: PlannedRun) -> None:
    weights, expected = load_file(model(root, run)), load_file(model(other, reference))
    for name, value in expected.items():
        assert (weights[name] - value).abs().max() <= 1e-5 * value.abs().max(), name


def no_groups(cluster: Any) -> bool:
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        return not groups()
    finally:
        ray.shutdown()


def test_a_run_that_fits_on_no_node_is_on_two_with_the_weights_of_one_process(
    cluster: Any, planned: Callable[..., PlannedRun], tmp_path: Path
):
    single, double = planned(checkpoints=4), planned(world_size=2, checkpoints=4)
    assert perform(tmp_path, single) is None
    seen = Seen(tmp_path)
    status = on_ray(cluster, tmp_path, double, seen)
    assert not status.failed
    assert (seen.bundles, len(seen.nodes), seen.agents) == (2, 2, 2)
    same_weights(tmp_path, double, tmp_path, single)
    one, two = result(tmp_path, single), result(tmp_path, double)
    assert set(two["scores"]) == set(one["scores"])
    for part, scores in one["scores"].items():
        for metric, values in scores["values"].items():
            known = [value for value in values if value is not None]
            found = [value for value in two["scores"][part]["values"][metric] if value is not None]
            assert found == pytest.approx(known, rel=1e-4, abs=1e-6), metric
    for here, there in zip(two["history"], one["history"], strict=True):
        assert here["values"] == pytest.approx(there["values"], rel=1e-5)
    assert not ranks_of(tmp_path)
    assert no_groups(cluster)


def test_a_run_that_fits_on_one_node_stays_there(cluster: Any, planned: Callable[..., PlannedRun], tmp_path: Path):
    node = cluster.add_node(num_cpus=2)
    try:
        seen = Seen(tmp_path)
        assert not on_ray(cluster, tmp_path, planned(world_size=2), seen).failed
        assert (seen.bundles, seen.nodes, seen.agents) == (1, {node.node_id}, 1)
    finally:
        cluster.remove_node(node, allow_graceful=False)


@pytest.mark.parametrize("victim", ["node", "rank 1"])
def test_what_is_lost_costs_the_attempt_and_not_the_run(
    cluster: Any, long: PlannedRun, undisturbed: Path, tmp_path: Path, victim: str
):
    first: list[psutil.Process] = []

    def lose() -> None:
        first.extend(ranks_of(tmp_path))
        assert len(first) == 4, "two agents and two ranks"
        if victim == "node":
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            cluster.add_node(num_cpus=1)
        else:
            next(one for one in first if one.environ().get("RANK") == victim[-1]).kill()

    seen = Seen(tmp_path, lose)
    status = on_ray(cluster, tmp_path, long, seen)
    assert seen.acted
    assert not status.failed
    assert len(status.done) == 1
    assert not any(one.is_running() for one in first)
    assert not ranks_of(tmp_path)
    assert no_groups(cluster)
    same_weights(tmp_path, long, undisturbed, long)


def test_a_run_whose_large_node_is_lost_goes_on_on_two_small_ones(
    cluster: Any, long: PlannedRun, undisturbed: Path, tmp_path: Path
):
    large = cluster.add_node(num_cpus=2)
    seen = Seen(tmp_path, lambda: cluster.remove_node(large, allow_graceful=False))
    status = on_ray(cluster, tmp_path, long, seen)
    assert seen.acted
    assert len(status.done) == 1
    assert seen.bundles == 2
    assert len(seen.nodes) == 3
    same_weights(tmp_path, long, undisturbed, long)


@pytest.mark.parametrize(
    ("world_size", "workers", "message"),
    [(4, None, "1 CPUs and 0 GPUs for each of its 4 processes"), (2, 1, "needs as many workers, got --workers 1")],
)
def test_a_run_too_large_for_all_nodes_is_refused(
    cluster: Any, tmp_path: Path, world_size: int, workers: int | None, message: str
):
    resources = Resources(address=cluster.address, gpus_per_run=0, workers=workers)
    with pytest.raises(ConfigError, match=message):
        executors["ray"](
            Store(tmp_path), [scripted_run("a", world_size=world_size)], resources=resources, watch=lambda _: None
        )


DRIVER = """
import json
import sys
from pathlib import Path
from neftune.records import PlannedRun
from neftune.study.executors import Resources, executors
from neftune.study.store import Store
if __name__ == "__main__":
    root, address, run = sys.argv[1:]
    resources = Resources(address=address, gpus_per_run=0)
    executors["ray"](Store(Path(root)), [PlannedRun(**json.loads(run))], resources=resources, watch=lambda status: None)
"""


def test_a_killed_driver_leaves_no_rank_and_no_group(cluster: Any, planned: Callable[..., PlannedRun], tmp_path: Path):
    run = planned(world_size=2, epochs=3000, checkpoints=1000)
    (tmp_path / "driver.py").write_text(DRIVER)
    values = {name: getattr(run, name) for name in ("run_id", "arm", "block", "seed", "config")}
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), cluster.address, json.dumps(values)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: last_checkpoint(tmp_path))
    assert len(ranks_of(tmp_path)) == 4
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not ranks_of(tmp_path))
    wait_for(lambda: no_groups(cluster))
