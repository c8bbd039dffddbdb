"""A run of two processes through the worker: the record of one process, and nobody left when something is killed."""

import contextlib
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from neftune.config import Recipe
from neftune.recipe import validate
from neftune.records import Failure, PlannedRun
from neftune.study.arms import run_config, settings_of
from neftune.study.store import Store
from neftune.study.study import make_planner
from neftune.study.worker import perform, start_worker
from tests.tiny import make_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe: dict[str, Any] = make_recipe(tmp_path_factory.mktemp("tiny"))
    recipe["data"]["num_train"] = 21
    recipe["train"] |= {"micro_batch_size": 2, "save_model": True}
    return recipe


def planned(recipe: dict[str, Any], **train: Any) -> PlannedRun:
    values = {**recipe, "train": {**recipe["train"], **train}}
    config = run_config({**settings_of(validate(Recipe, values, source="test")), "noise": {"alpha": 5.0}})
    identify = make_planner(validate(Recipe, values, source="test")).identify
    return PlannedRun(identify(config), "alpha=5", "", 0, config.model_dump(mode="json"))


def numbers(root: Path, run: PlannedRun) -> dict[str, Any]:
    values = json.loads((root / "runs" / run.run_id / "result.json").read_text())
    return {key: values[key] for key in ("history", "answers", "scores", "noise", "alpha", "counts")}


def model(root: Path, run: PlannedRun) -> Path:
    return root / "runs" / run.run_id / "model" / "model.safetensors"


@pytest.fixture(scope="module")
def long(recipe: dict[str, Any]) -> PlannedRun:
    """A run long enough to be killed on its way."""
    return planned(recipe, world_size=2, epochs=20, checkpoints=12)


@pytest.fixture(scope="module")
def undisturbed(long: PlannedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    assert perform(root, long) is None
    return root


def ranks_of(root: Path) -> list[psutil.Process]:
    """Every process, agents included, that works on a run under this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any("neftune.study" in word for word in words) and any(str(root) in word for word in words):
                found.append(process)
    return found


def rank_one(root: Path) -> psutil.Process | None:
    for process in ranks_of(root):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RANK") == "1":
                return process
    return None


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


def wait_for(condition: Callable[[], Any], *, patience: float = 120) -> Any:
    """What ``condition`` gives once it is true."""
    for _ in range(int(patience / 0.02)):
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def last_checkpoint(root: Path) -> int:
    """The step of the last whole checkpoint; 0 where there is none."""
    seals = root.glob("runs/*/checkpoints/checkpoint-*/neftune_seal.json")
    return max((int(seal.parent.name.rpartition("-")[2]) for seal in seals), default=0)


def test_two_ranks_give_the_record_of_one_process(recipe: dict[str, Any], tmp_path: Path):
    single, double = planned(recipe), planned(recipe, world_size=2)
    assert single.run_id != double.run_id
    assert perform(tmp_path, single) is None
    assert perform(tmp_path, double) is None
    one, two = numbers(tmp_path, single), numbers(tmp_path, double)
    weights, expected = load_file(model(tmp_path, double)), load_file(model(tmp_path, single))
    for name, value in expected.items():
        assert (weights[name] - value).abs().max() <= 1e-5 * value.abs().max(), name
    for here, there in zip(two["history"], one["history"], strict=True):
        assert here["values"] == pytest.approx(there["values"], rel=1e-5)
    assert two["noise"] == pytest.approx(one["noise"], rel=1e-6)
    assert two["counts"] == one["counts"]
    assert {part: [answer["text"] for answer in answers] for part, answers in two["answers"].items()} == {
        part: [answer["text"] for answer in answers] for part, answers in one["answers"].items()
    }
    folder = tmp_path / "runs" / double.run_id
    assert not (folder / "ranks").exists()
    assert not (folder / "checkpoints").exists()
    assert Store(tmp_path).read_progress(double.run_id)["stage"] == "done"


def work(root: Path, run: PlannedRun, driver: int) -> None:
    start_worker(1, driver, "")
    perform(root, run)


def test_kills_leave_no_orphans_and_change_nothing(long: PlannedRun, undisturbed: Path, tmp_path: Path):
    process = multiprocessing.get_context("spawn").Process(target=work, args=(tmp_path, long, psutil.Process().pid))
    process.start()
    wait_for(lambda: last_checkpoint(tmp_path))
    orphans = ranks_of(tmp_path)
    assert len(orphans) == 3, "an agent and two ranks"
    process.kill()
    process.join()

    def kill_rank() -> None:
        wait_for(lambda: not any(one.is_running() for one in orphans))
        start = last_checkpoint(tmp_path)
        wait_for(lambda: last_checkpoint(tmp_path) > start)
        rank = rank_one(tmp_path)
        assert rank is not None, "killed too late to tell"
        rank.kill()

    # At once, while ranks of the first start may still be there.
    with meanwhile(kill_rank):
        assert perform(tmp_path, long) is None
    wait_for(lambda: not ranks_of(tmp_path))
    assert not any(one.is_running() for one in orphans)
    assert numbers(tmp_path, long) == numbers(undisturbed, long)
    assert model(tmp_path, long).read_bytes() == model(undisturbed, long).read_bytes()
    log = (tmp_path / "runs" / long.run_id / "log.txt").read_text()
    assert "rank 1 was killed (SIGKILL; out of memory?)" in log
    assert "Starting its ranks again." in log


@pytest.mark.parametrize(("victim", "words"), [("rank", "rank 1 was killed"), ("agent", "torchrun was killed")])
def test_what_is_killed_every_time_fails_the_run_and_says_so(long: PlannedRun, tmp_path: Path, victim: str, words: str):
    over = threading.Event()

    def keep_killing() -> None:
        while not over.is_set():
            rank = rank_one(tmp_path)
            with contextlib.suppress(psutil.Error):
                if rank:
                    (rank if victim == "rank" else psutil.Process(rank.ppid())).kill()
            time.sleep(0.05)

    with meanwhile(keep_killing):
        try:
            failure = perform(tmp_path, long)
        finally:
            over.set()
    assert failure is not None
    assert failure.error == "RankDiedError"
    assert f"all 2 ranks of a run must live until it ends, {words} (SIGKILL" in failure.message
    assert str(tmp_path / "runs" / long.run_id / "log.txt") in failure.message
    assert Store(tmp_path).result({}, (long,)).failures[long.run_id] == failure
    wait_for(lambda: not ranks_of(tmp_path))


def test_an_error_of_the_ranks_is_the_runs_error(recipe: dict[str, Any], tmp_path: Path):
    run = planned(recipe, world_size=2, learning_rate=1e30)
    failure = perform(tmp_path, run)
    assert isinstance(failure, Failure)
    assert failure.error == "DivergedError"
    assert "Lower --train.learning_rate" in failure.message
