"""Every executor performs a real study, with the numbers and weights of every other, also when a node is lost."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from neftune.analysis.choosing import HeldOut
from neftune.config import Recipe
from neftune.recipe import validate
from neftune.study.executors import Resources, Status, Watch
from neftune.study.store import Store
from neftune.study.study import run_study
from tests.ray_here import ray_here
from tests.slurm_stand_in import stand_in
from tests.tiny import make_recipe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    values = make_recipe(tmp_path_factory.mktemp("tiny"))
    values["study"] = {"scientific": {"noise.alpha": [0, 5]}, "seeds": [0]}
    values["train"] |= {"save_model": True, "checkpoints": 3, "epochs": 60}
    return validate(Recipe, values, source="test")


@pytest.fixture(scope="module")
def local(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return numbers(recipe, tmp_path_factory.mktemp("local"), "local")


def numbers(recipe: Recipe, root: Path, executor: str, watch: Watch = lambda _: None, **where: Any) -> dict[str, Any]:
    """What the runs found and their final weights, without what depends on the clock."""
    resources = Resources(**({"workers": 2} | where), gpus_per_run=0)
    result = run_study(recipe, root=root, choosing=HeldOut(), executor=executor, resources=resources, watch=watch)
    assert not result.failures
    found = {}
    for path in root.glob("runs/*/result.json"):
        values = json.loads(path.read_text())
        found[path.parent.name] = {key: values[key] for key in ("history", "answers", "scores", "noise", "alpha")}
        weights = (path.parent / "model" / "model.safetensors").read_bytes()
        found[path.parent.name]["weights"] = hashlib.sha256(weights).hexdigest()
    return found


@pytest.mark.parametrize("executor", ["ray", "slurm"])
def test_an_executor_changes_no_number(
    executor: str, recipe: Recipe, local: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if executor == "ray":
        ray_here()
    stand_in(tmp_path / "bin", monkeypatch)
    assert len(local) == 2
    assert numbers(recipe, tmp_path / "out", executor) == local


def test_a_lost_node_changes_no_number(recipe: Recipe, local: dict[str, Any], tmp_path: Path):
    """Both runs train, one a node, when one node dies; its run goes on from its checkpoint on the other."""
    ray_here()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    trained: dict[str, list[int]] = {}
    lost: list[bool] = []

    def lose_one(status: Status) -> None:
        for run_id in status.running:
            values = Store(tmp_path).read_progress(run_id)
            if values.get("stage") == "training":
                trained.setdefault(run_id, []).append(values["step"])
        if len(trained) == 2 and not lost:
            lost.append(True)
            cluster.remove_node(node, allow_graceful=False)

    try:
        found = numbers(recipe, tmp_path, "ray", lose_one, address=cluster.address, workers=None)
    finally:
        cluster.shutdown()
    assert lost
    assert found == local
