"""`neftune study prune` shows before it removes."""

import json
from pathlib import Path

import pytest

from neftune.cli.main import main
from neftune.records import PlannedRun
from neftune.study.store import Store
from tests.stub_runs import stub_record

ORPHAN = PlannedRun("orphan", "baseline", "", 0, {"seed": 0, "noise": {"alpha": 0}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.write_result(stub_record(ORPHAN))
    return store


def test_it_shows_and_removes_nothing_until_told(store: Store, capsys: pytest.CaptureFixture[str]):
    command = ["study", "prune", "--out", str(store.root)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "kB  runs/orphan" in shown
    assert shown.endswith("could go. Nothing was removed: add --yes.\n")
    assert store.is_done("orphan")
    assert main([*command, "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("removed 1 item,")
    assert store.runs() == []
    assert main(command) == 0
    assert capsys.readouterr().out == f"nothing in {store.root} can go.\n"


def test_what_is_in_use_stays_and_the_exit_code_says_so(store: Store, capsys: pytest.CaptureFixture[str]):
    with store.claim("orphan"):
        assert main(["study", "prune", "--yes", "--json", "--out", str(store.root)]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["path"], row["state"]) == ("runs/orphan", "in use")


def test_a_folder_without_runs_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["study", "prune", "--out", str(tmp_path / "none")]) == 2
    assert "prune needs the folder of all runs" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
