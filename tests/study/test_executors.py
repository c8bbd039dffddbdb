"""A study performed for real on a tiny checkpoint: whole, resumable, and clear about what fails."""

import json
import math
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

from neftune.analysis.choosing import HeldOut
from neftune.config import KnobValue, Recipe
from neftune.recipe import validate
from neftune.records import StudyResult
from neftune.study.executors import Resources, Status
from neftune.study.store import Store
from neftune.study.study import run_study
from tests.tiny import make_recipe

pytestmark = pytest.mark.slow

TWO = Resources(workers=2)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return validate(Recipe, make_recipe(tmp_path_factory.mktemp("tiny")), source="test")


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResult]:
    root = tmp_path_factory.mktemp("runs")
    return root, run_study(recipe, choosing=HeldOut(), root=root, resources=TWO)


def numbers(root: Path) -> dict[str, Any]:
    """What runs found, without what depends on the clock."""
    found = {}
    for path in sorted(root.glob("runs/*/result.json")):
        values = json.loads(path.read_text())
        found[path.parent.name] = {key: values[key] for key in ("history", "answers", "scores", "noise", "alpha")}
    return found


def test_every_planned_run_is_done_and_paired(undisturbed: tuple[Path, StudyResult]):
    _, result = undisturbed
    assert len(result.records) == len(result.planned) == 4
    assert not result.failures
    for run in result.planned:
        record = result.records[run.run_id]
        assert (record.noise is None) == run.is_baseline
        assert set(record.scores) == {"train", "heldout", "test"}
        assert len(record.scores["test"].example_ids) == 16
        assert all(math.isfinite(one) for one in record.scores["test"].values["loss"])
    noisy = [result.records[run.run_id] for run in result.planned if not run.is_baseline]
    for record in noisy:
        assert record.noise
        assert record.noise.alpha_mean == pytest.approx(5, rel=0.05)


def test_arms_of_a_seed_start_alike_and_seeds_differ(undisturbed: tuple[Path, StudyResult]):
    _, result = undisturbed
    start = {
        (run.arm, run.seed): result.records[run.run_id].history[0].values["clean_heldout_loss"]
        for run in result.planned
    }
    assert start["baseline", 0] == start["alpha=5", 0]
    last = {(run.arm, run.seed): result.records[run.run_id].history[-1].values for run in result.planned}
    assert last["baseline", 0] != last["alpha=5", 0]
    assert last["baseline", 0] != last["baseline", 1]


def test_what_is_done_is_not_done_again(recipe: Recipe, undisturbed: tuple[Path, StudyResult]):
    root, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in root.glob("runs/*/result.json")}
    seen: list[Status] = []
    run_study(recipe, choosing=HeldOut(), root=root, resources=TWO, watch=seen.append)
    assert {path: path.stat().st_mtime_ns for path in root.glob("runs/*/result.json")} == before
    assert len(seen) == 1


def test_another_study_trains_only_what_no_study_has(
    recipe: Recipe, undisturbed: tuple[Path, StudyResult], tmp_path: Path
):
    root = tmp_path / "shared"
    shutil.copytree(undisturbed[0], root)
    before = {path.parent.name: path.stat().st_mtime_ns for path in root.glob("runs/*/result.json")}
    study = recipe.study.model_copy(update={"scientific": {"noise.alpha": [0.0, 9.0]}, "seeds": [1]})
    other = recipe.model_copy(update={"name": "other", "question": "and at 9?", "study": study})
    result = run_study(other, choosing=HeldOut(), root=root, resources=TWO)
    after = {path.parent.name: path.stat().st_mtime_ns for path in root.glob("runs/*/result.json")}
    (new,) = set(after) - set(before)
    assert {name: after[name] for name in before} == before
    assert {run.arm: run.run_id in before for run in result.planned} == {"baseline": True, "alpha=9": False}
    assert result.records[new].alpha == 9


def test_a_killed_worker_costs_an_attempt_and_no_result(
    recipe: Recipe, undisturbed: tuple[Path, StudyResult], tmp_path: Path
):
    killed: list[int] = []

    def kill_once(status: Status) -> None:
        if status.running and not killed and any(tmp_path.glob("runs/*/progress.json")):
            for child in multiprocessing.active_children():
                killed.append(child.pid or 0)
                child.kill()

    result = run_study(recipe, choosing=HeldOut(), root=tmp_path, resources=TWO, watch=kill_once)
    assert killed
    assert not result.failures
    assert numbers(tmp_path) == numbers(undisturbed[0])


def test_a_run_that_diverges_fails_alone_and_says_why(recipe: Recipe, tmp_path: Path):
    rates: list[KnobValue] = [1e-3, 1e30]
    study = recipe.study.model_copy(update={"blocks": {"train.learning_rate": rates}, "seeds": [0]})
    result = run_study(
        recipe.model_copy(update={"study": study}), choosing=HeldOut(), root=tmp_path, resources=Resources(workers=1)
    )
    assert {run.config["train"]["learning_rate"] for run in result.planned if run.run_id in result.failures} == {1e30}
    assert {failure.error for failure in result.failures.values()} == {"DivergedError"}
    assert len(result.records) == 2
    again = Store(tmp_path).read_study("tiny")
    assert set(again.failures) == set(result.failures)
