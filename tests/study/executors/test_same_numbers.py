"""Every executor performs a real study, with the numbers of every other."""

import json
from pathlib import Path
from typing import Any

import pytest

from neftune.analysis.choosing import HeldOut
from neftune.config import Recipe
from neftune.recipe import validate
from neftune.study.executors import Resources
from neftune.study.study import run_study
from tests.ray_here import ray_here
from tests.slurm_stand_in import stand_in
from tests.tiny import make_recipe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    values = make_recipe(tmp_path_factory.mktemp("tiny"))
    values["study"] = {"scientific": {"noise.alpha": [0, 5]}, "seeds": [0]}
    return validate(Recipe, values, source="test")


@pytest.fixture(scope="module")
def local(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return numbers(recipe, tmp_path_factory.mktemp("local"), "local")


def numbers(recipe: Recipe, root: Path, executor: str) -> dict[str, Any]:
    """What the runs found, without what depends on the clock."""
    resources = Resources(workers=2, gpus_per_run=0)
    result = run_study(recipe, root=root, choosing=HeldOut(), executor=executor, resources=resources)
    assert not result.failures
    found = {}
    for path in root.glob("runs/*/result.json"):
        values = json.loads(path.read_text())
        found[path.parent.name] = {key: values[key] for key in ("history", "answers", "scores", "noise", "alpha")}
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
