"""What is pruned is what nothing needs: not a run that a study plans, not one that a process holds."""

import os
import time
from pathlib import Path

import pytest

from neftune.errors import ConfigError, StoreError
from neftune.records import Failure, PlannedRun
from neftune.study.prune import Removal, Wanted, removals, remove
from neftune.study.store import Store
from tests.stub_runs import stub_record


def run(run_id: str) -> PlannedRun:
    return PlannedRun(run_id, "baseline", "", 0, {"seed": 0, "noise": {"alpha": 0}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two studies that share a finished run; one failed run, one given up, one that no study plans."""
    store = Store(tmp_path)
    store.write_study("one", {"name": "one"}, [run("shared"), run("mine"), run("failed"), run("begun")])
    store.write_study("two", {"name": "two"}, [run("shared"), run("theirs")])
    for run_id in ("shared", "mine", "theirs", "orphan"):
        store.write_result(stub_record(run(run_id)))
    store.write_failure(Failure("failed", "DivergedError", "NaN"))
    store.write_progress("begun", {"stage": "training"})
    for name in ("checkpoints/checkpoint-3", "model"):
        (store.run_folder("mine") / name).mkdir(parents=True)
        (store.run_folder("mine") / name / "weights").write_bytes(bytes(1000))
    (store.run_folder("theirs") / ".result.json.abcd_123").write_bytes(b"{")
    return store


def found(store: Store, **wanted: object) -> dict[str, str]:
    """What can go: path -> why."""
    every = removals(store, Wanted(**wanted))  # pyright: ignore[reportArgumentType]
    return {one.path.relative_to(store.root).as_posix(): one.why for one in every}


ALWAYS = {
    "runs/mine/checkpoints": "checkpoints of a finished run",
    "runs/orphan": "run that no study plans",
    "runs/theirs/.result.json.abcd_123": "half-written file",
}


def test_by_default_only_what_nothing_needs(store: Store):
    assert found(store) == ALWAYS


@pytest.mark.parametrize(
    ("wanted", "more"),
    [
        ({"failed": True}, {"runs/failed": "failed run"}),
        ({"unfinished": True}, {"runs/begun": "unfinished run"}),
        ({"weights": True}, {"runs/mine/model": "saved weights"}),
    ],
)
def test_what_is_asked_for_goes_too(store: Store, wanted: dict[str, bool], more: dict[str, str]):
    assert found(store, **wanted) == ALWAYS | more


def test_a_study_takes_its_own_runs_and_leaves_the_shared_one(store: Store):
    gone = found(store, studies=("one",))
    assert {path for path in gone if path not in ALWAYS} == {"runs/mine", "runs/failed", "runs/begun", "studies/one"}
    remove(store, removals(store, Wanted(studies=("one",))))
    assert store.studies() == ["two"]
    assert set(store.read_study("two").records) == {"shared", "theirs"}
    assert store.runs() == ["shared", "theirs"]


def test_runs_of_an_earlier_plan_go_when_asked(store: Store):
    store.write_study("two", {"name": "two"}, [run("shared")])
    assert found(store) == ALWAYS
    gone = found(store, earlier_plans=True)
    assert gone["runs/theirs"] == "run that no study plans"
    assert [why for path, why in gone.items() if "/plan-" in path] == ["earlier plan"]


def test_removing_keeps_results_and_says_sizes(store: Store):
    every = removals(store, Wanted())
    assert {one.path.name: one.num_bytes for one in every}["checkpoints"] == 1000
    gone, left = remove(store, every)
    assert gone == every
    assert not left
    assert not removals(store, Wanted())
    assert set(store.read_study("one").records) == {"shared", "mine"}
    assert (store.run_folder("mine") / "model/weights").is_file()


def test_a_run_that_is_held_stays_and_so_does_its_study(store: Store):
    wanted = Wanted(studies=("one",))
    with store.claim("begun"):
        gone, left = remove(store, removals(store, wanted))
    assert {one.path.name for one in left} == {"begun", "one"}
    assert store.read_progress("begun") == {"stage": "training"}
    assert "mine" in {one.path.name for one in gone}
    assert store.read_plan("one").planned


def test_a_run_that_finished_meanwhile_stays(store: Store):
    every = removals(store, Wanted(failed=True))
    store.write_result(stub_record(run("failed")))
    _, left = remove(store, every)
    assert [one.run_id for one in left] == ["failed"]
    assert store.is_done("failed")


def test_a_run_that_a_study_has_planned_meanwhile_stays(store: Store):
    every = removals(store, Wanted())
    store.write_study("three", {"name": "three"}, [run("orphan")])
    _, left = remove(store, every)
    assert [one.run_id for one in left] == ["orphan"]
    assert store.is_done("orphan")


def test_a_studys_half_written_file_goes_once_it_is_old(store: Store):
    path = store.study_folder("one") / ".report.html.abcd_123"
    path.write_text("<html")
    (store.study_folder("one") / ".notes.of-mine").write_text("")
    assert found(store) == ALWAYS
    os.utime(path, (time.time() - 7200,) * 2)
    assert found(store) == ALWAYS | {"studies/one/.report.html.abcd_123": "half-written file"}


def test_a_plan_that_cannot_be_read_stops_it(store: Store):
    (store.study_folder("two") / "plan.json").write_text("{")
    with pytest.raises(StoreError, match=r"two.plan\.json must be JSON"):
        removals(store, Wanted())
    with pytest.raises(ConfigError, match="must hold the study 'three'; it holds one, two"):
        removals(store, Wanted(studies=("three",)))


def test_half_a_removal_leaves_no_half_run(store: Store, monkeypatch: pytest.MonkeyPatch):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(store, [Removal(store.run_folder("orphan"), "run that no study plans", 0, "orphan", done=True)])
    assert not store.is_done("orphan")
