"""Where a study stands, as its folder alone tells it."""

import os
from pathlib import Path

import pytest

from neftune.errors import ConfigError
from neftune.records import Failure, PlannedRun
from neftune.study.standing import STALE_AFTER, RunningRun, read_standing
from neftune.study.store import Store
from tests.stub_runs import stub_record

NOW = 1_000_000.0
CONFIG = {"noise": {"alpha": 0}}


def planned(run_id: str, stage: str = "main", arm: str = "alpha=5") -> PlannedRun:
    return PlannedRun(run_id, arm, "world=0", 3, CONFIG, stage=stage)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    runs = [planned("tuned", "tune"), planned("shared"), planned("shared", arm="twin"), planned("trains")]
    runs += [planned(name) for name in ("dead", "failed", "again", "waits")]
    store.write_study("s", {"study": {}}, runs, to_come=("confirm",), notes=("a note",))
    for run_id in ("tuned", "shared"):
        store.write_result(stub_record(planned(run_id)))
        store.write_progress(run_id, {"stage": "done", "started": NOW - 500, "at": NOW - 400})
    going = {"stage": "training", "step": 3, "num_steps": 8, "loss": 1.5}
    store.write_progress("trains", {**going, "started": NOW - 40, "at": NOW - 1})
    store.write_progress("dead", {**going, "started": NOW - 900, "at": NOW - 2 * STALE_AFTER})
    for run_id in ("failed", "again"):
        store.write_failure(Failure(run_id, "DivergedError", "the loss became NaN"))
        os.utime(store.run_folder(run_id) / "failure.json", (NOW - 60, NOW - 60))
    store.write_progress("failed", {"stage": "training", "started": NOW - 90, "at": NOW - 61})
    store.write_progress("again", {"stage": "loading", "started": NOW - 10, "at": NOW - 5})
    return store


def test_every_run_is_in_one_state(store: Store):
    standing = read_standing(store, "s", now=NOW)
    tune, main = standing.stages
    assert (tune.stage, tune.runs, tune.done) == ("tune", 1, 1)
    assert (main.runs, main.done, main.running, main.failed, main.waiting) == (6, 1, 3, 1, 1)
    assert standing.to_come == ("confirm",)
    assert standing.notes == ("a note",)
    assert not standing.is_over


def test_running_runs_say_how_far_they_are_and_which_are_probably_dead(store: Store):
    running = {one.run_id: one for one in read_standing(store, "s", now=NOW).running}
    expected = RunningRun("trains", "world=0 alpha=5 seed=3", "training", 3, 8, 1.5, seconds=40.0, silent=1.0)
    assert running["trains"] == expected
    assert {run_id for run_id, one in running.items() if one.is_stale} == {"dead"}
    assert running["again"].doing == "loading"


def test_failures_come_with_their_reason(store: Store):
    assert read_standing(store, "s", now=NOW).failures == {"DivergedError: the loss became NaN": ("failed",)}


def test_the_end_is_expected_at_the_pace_of_finished_runs(store: Store):
    # Finished runs took 100 s; two are alive with 60 and 90 s to go; one waits and the dead one must be done anew.
    assert read_standing(store, "s", now=NOW).seconds_left == pytest.approx((60 + 90 + 100 + 100) / 2)


def test_a_study_that_nobody_performs_has_no_expected_end(store: Store):
    standing = read_standing(store, "s", now=NOW + 10 * STALE_AFTER)
    assert standing.seconds_left is None
    assert all(one.is_stale for one in standing.running)


def test_reading_changes_nothing_and_an_unknown_study_is_named(store: Store):
    before = sorted(str(path) for path in store.root.rglob("*"))
    read_standing(Store(store.root, read_only=True), "s")
    assert sorted(str(path) for path in store.root.rglob("*")) == before
    with pytest.raises(ConfigError, match="no-such"):
        read_standing(store, "no-such")
