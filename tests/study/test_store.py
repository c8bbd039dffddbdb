"""Run folders: whole or absent, readable back, claimed by one process."""

import errno
import json
import math
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from neftune.errors import ConfigError, StoreError
from neftune.records import Answer, Failure, HistoryPoint, PlannedRun, RealisedNoise, RunRecord, Scores
from neftune.study.store import Store, read_json, write_json


def record(run_id: str = "r1") -> RunRecord:
    return RunRecord(
        run_id=run_id,
        config={"seed": 3},
        history=(HistoryPoint(0, 0.0, {"clean_train_loss": 2.5}),),
        noise=RealisedNoise(5.0, 4.9, 5.1, 0.3, 10, 200, 5),
        alpha=5.0,
        counts={"read": 4},
        answers={"test": (Answer("e1", "Q </script>", "A\u2028\x00", "R", 2, True),)},
        scores={"test": Scores(("e1", "e2"), {"loss": (1.5, math.nan)})},
        versions={"torch": "x"},
        seconds={"training": 1.0},
        data_fingerprint="f",
        tags={"e1": {"half": "open"}},
    )


def test_a_result_reads_back_as_it_was(tmp_path: Path):
    store = Store(tmp_path)
    store.write_result(record())
    read = store.read_result("r1")
    assert store.is_done("r1")
    assert math.isnan(read.scores["test"].values["loss"][1])
    assert read.answers == record().answers
    assert (read.noise, read.history, read.tags) == (record().noise, record().history, record().tags)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"x\.json could not be written: No space left on device\. Free some space"):
        write_json(tmp_path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_broken_result_says_which_file_and_what_to_do(tmp_path: Path):
    store = Store(tmp_path)
    write_json(tmp_path / "runs/r1/result.json", {"run_id": "r1"})
    with pytest.raises(StoreError, match=r"result\.json must hold a run's result.*Delete it"):
        store.read_result("r1")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(StoreError, match=r"bad\.json must be JSON"):
        read_json(tmp_path / "bad.json")


def test_a_folder_that_cannot_be_made_is_wrong_input(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output folder must be writable.*--out"):
        Store(tmp_path / "file" / "runs")


def test_a_study_knows_what_is_done_and_what_failed(tmp_path: Path):
    store = Store(tmp_path)
    runs = [PlannedRun(f"r{i}", "baseline", "", i, {}) for i in range(3)]
    store.write_study("s", {"name": "s"}, runs)
    store.write_result(record("r0"))
    store.write_failure(Failure("r1", "DivergedError", "loss is NaN"))
    study = store.read_study("s")
    assert set(study.records) == {"r0"}
    assert study.failures["r1"].message == "loss is NaN"
    assert study.planned == tuple(runs)
    store.write_result(record("r1"))
    assert not store.read_study("s").failures
    with pytest.raises(ConfigError, match="it holds s"):
        store.read_study("t")


def _hold(root: Path, log: Path) -> None:
    with Store(root).claim("r1"), log.open("a") as file:
        file.write("in\n")
        file.flush()
        time.sleep(0.4)
        file.write("out\n")


def test_a_run_is_held_by_one_process_at_a_time(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_hold, args=(tmp_path, tmp_path / "log")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert (tmp_path / "log").read_text().split() == ["in", "out", "in", "out"]


def test_a_killed_holder_does_not_block(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    holder = context.Process(target=_hold, args=(tmp_path, tmp_path / "log"))
    holder.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.02)
    holder.kill()
    holder.join()
    lock = filelock.FileLock(Store(tmp_path).run_folder("r1") / "claim.lock")
    with lock.acquire(timeout=5):
        assert lock.is_locked, "it waits for nobody"


def test_a_result_cut_short_is_none_and_is_run_again(tmp_path: Path):
    store = Store(tmp_path)
    store.write_result(record())
    path = tmp_path / "runs/r1/result.json"
    whole = path.read_bytes()
    for left in (b"", whole[: len(whole) // 2], bytes(len(whole))):
        path.write_bytes(left)
        assert not store.is_done("r1"), left[:20]
    store.write_result(record())
    assert path.read_bytes() == whole


def test_a_result_of_another_run_is_refused(tmp_path: Path):
    store = Store(tmp_path)
    store.write_result(record("r1"))
    (tmp_path / "runs/r1").rename(tmp_path / "runs/r2")
    with pytest.raises(StoreError, match=r"r2.result\.json must hold the result of run r2, got that of r1"):
        store.read_result("r2")


def test_text_that_utf8_cannot_hold_costs_no_run(tmp_path: Path):
    answer = Answer("e1", "Q", "half a pair: \ud83d", "R", 2, True)
    store = Store(tmp_path)
    store.write_result(replace(record(), answers={"test": (answer,)}))
    assert store.read_result("r1").answers["test"] == (answer,)


def test_looking_needs_no_writable_folder(tmp_path: Path):
    store = Store(tmp_path / "none", read_only=True)
    assert store.studies() == store.runs() == []
    assert not (tmp_path / "none").exists()


def test_a_claim_that_is_held_is_not_waited_for_where_asked(tmp_path: Path):
    store = Store(tmp_path)
    with store.claim_if_free("r1") as held, store.claim_if_free("r1") as again:
        assert (held, again) == (True, False)
    with store.claim_if_free("r1") as held:
        assert held


def test_a_claim_outlives_the_folder_it_waits_for(tmp_path: Path):
    store = Store(tmp_path)
    folder = store.run_folder("r1")
    with store.claim("r1"):
        waiting = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path, tmp_path / "log"))
        waiting.start()
        time.sleep(1.0)
        shutil.rmtree(folder)
    waiting.join(30)
    assert waiting.exitcode == 0
    assert (tmp_path / "log").read_text().split() == ["in", "out"]


def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fcntl

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(StoreError, match="needs a file system with locks"), Store(tmp_path).claim("r1"):
        pass
    assert not (tmp_path / "runs/r1/claim.lock").exists(), "a lock that nobody holds would stay for ever"
