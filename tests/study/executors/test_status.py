"""Which run is next, and what a failure or a death costs the others."""

from collections import Counter
from pathlib import Path

import pytest

from neftune.records import Failure, PlannedRun
from neftune.study.executors.status import ATTEMPTS, NODE_LOSSES, Line
from neftune.study.store import Store
from tests.scripted_runs import scripted_run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def finish(store: Store, name: str) -> None:
    folder = store.run_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text("{}")


def start(line: Line, room: int = 100) -> list[str]:
    names = []
    while run := line.start_next(room):
        names.append(run.run_id)
    return names


def running(line: Line, name: str) -> PlannedRun:
    return line.status.running[name]


def test_runs_start_in_order_of_preference_and_shared_ones_once(store: Store):
    finish(store, "old")
    line = Line(store, [scripted_run(name) for name in ("c", "old", "a", "c", "b")])
    assert start(line) == ["c", "a", "b"]
    assert [run.run_id for run in line.status.done] == ["old"]
    assert line.status.total == 4


def test_a_run_waits_for_what_it_needs_and_then_takes_its_place(store: Store):
    line = Line(store, [scripted_run("control", after="twin"), scripted_run("twin"), scripted_run("other")])
    assert start(line, room=1)[:1] == ["twin"]
    line.end(running(line, "twin"), None)
    assert line.start_next(1) == scripted_run("control", after="twin")


def test_a_need_that_is_done_already_is_no_need(store: Store):
    finish(store, "twin")
    assert start(Line(store, [scripted_run("control", after="twin")])) == ["control"]


def test_a_failure_fails_those_that_need_it_and_says_so(store: Store):
    line = Line(
        store, [scripted_run("a"), scripted_run("b", after="a"), scripted_run("c", after="b"), scripted_run("d")]
    )
    assert start(line) == ["a", "d"]
    line.end(running(line, "a"), Failure("a", "DivergedError", "the loss became NaN"))
    assert set(line.status.failed) == {"a", "b", "c"}
    assert line.status.failed["c"].error == "DivergedError"
    assert "must match, b, failed" in line.status.failed["c"].message
    line.end(running(line, "d"), None)
    assert line.is_over


def test_a_need_that_nobody_performs_fails_at_once(store: Store):
    line = Line(store, [scripted_run("control", after="unknown")])
    assert line.is_over
    assert "neither done nor part" in line.status.failed["control"].message


def test_no_smaller_run_overtakes_one_that_waits_for_its_room(store: Store):
    line = Line(store, [scripted_run("one"), scripted_run("two", world_size=2), scripted_run("three")])
    assert line.start_next(2) == scripted_run("one")
    assert line.start_next(1) is None
    assert start(line, room=2) == ["two", "three"]


def test_a_run_that_kills_its_worker_is_tried_at_the_end_alone_and_given_up(store: Store):
    line = Line(store, [scripted_run("bad"), scripted_run("good"), scripted_run("other")])
    assert line.start_next(1)
    line.worker_died(running(line, "bad"), "hint")
    assert start(line) == ["good", "other"]
    for name in ("good", "other"):
        assert line.start_next(1) is None
        line.end(running(line, name), None)
    for _ in range(ATTEMPTS - 1):
        assert line.start_next(9) == scripted_run("bad")
        assert line.start_next(9) is None
        line.worker_died(running(line, "bad"), "hint")
    assert line.is_over
    assert line.status.failed["bad"].error == "WorkerDied"
    assert f"died {ATTEMPTS} times (hint)" in line.status.failed["bad"].message


def test_nothing_starts_beside_a_run_that_killed_its_worker(store: Store):
    line = Line(store, [scripted_run("bad"), scripted_run("needy", after="good"), scripted_run("good")])
    assert start(line) == ["bad", "good"]
    line.worker_died(running(line, "bad"), "")
    line.end(running(line, "good"), None)
    assert start(line) == ["needy"]
    line.end(running(line, "needy"), None)
    assert start(line) == ["bad"]


def test_a_lost_machine_is_no_fault_of_the_run(store: Store):
    line = Line(store, [scripted_run("a"), scripted_run("b")])
    for _ in range(NODE_LOSSES - 1):
        assert line.start_next(1) == scripted_run("a")
        line.node_lost(running(line, "a"))
    assert start(line) == ["a", "b"]
    line.node_lost(running(line, "a"))
    assert line.status.failed["a"].error == "NodeLost"


def test_a_step_looks_at_no_run_but_its_own(store: Store, monkeypatch: pytest.MonkeyPatch):
    asked: Counter[str] = Counter()
    is_done = Store.is_done

    def counted(self: Store, run_id: str) -> bool:
        asked[run_id] += 1
        return is_done(self, run_id)

    monkeypatch.setattr(Store, "is_done", counted)
    runs = [scripted_run(str(index), after=str(index - 1) if index % 2 else None) for index in range(10_000)]
    line = Line(store, runs)
    count = 0
    while run := line.start_next(1):
        line.end(run, None)
        count += 1
    assert count == 10_000
    assert set(asked.values()) == {1}
