"""What a worker does with one run: nothing that is done already, and nothing under a name that says otherwise."""

from pathlib import Path

from neftune.config import RunConfig
from neftune.records import PlannedRun
from neftune.study.store import Store
from neftune.study.worker import perform
from tests.stub_runs import stub_record


def planned() -> PlannedRun:
    config = RunConfig.model_validate({"data": {"num_train": 8, "num_heldout": 4, "num_test": 4}})
    return PlannedRun("made-up-id", "baseline", "", 0, config.model_dump(mode="json"))


def test_a_run_that_is_found_done_is_left_as_it_is(tmp_path: Path):
    store, run = Store(tmp_path), planned()
    store.write_result(stub_record(run))
    result = store.run_folder(run.run_id) / "result.json"
    before = result.read_bytes(), result.stat().st_mtime_ns
    assert perform(tmp_path, run) is None
    assert (result.read_bytes(), result.stat().st_mtime_ns) == before
    assert not (store.run_folder(run.run_id) / "log.txt").exists()


def test_a_run_that_was_planned_with_other_code_is_refused_and_not_marked_as_failed(tmp_path: Path):
    failure = perform(tmp_path, planned())
    assert failure is not None
    assert failure.error == "StoreError"
    assert "needs the data, weights and code it was planned with" in failure.message
    assert not Store(tmp_path).is_done("made-up-id")
    assert not Store(tmp_path).has_failed("made-up-id")
