"""`neftune study status`, and that `neftune study RECIPE` is still what it was."""

import json
from pathlib import Path

import pytest

from neftune.cli.main import main
from neftune.records import PlannedRun
from neftune.study.store import Store
from tests.stub_runs import stub_record

CONFIG = {"noise": {"alpha": 0}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    runs = [PlannedRun(name, "[red]arm", "", 0, CONFIG) for name in ("a", "b")]
    store.write_study("s", {"study": {}}, runs)
    store.write_result(stub_record(runs[0]))
    return store


@pytest.mark.parametrize("by", ["name", "folder"])
def test_a_study_is_found_by_name_and_by_folder(by: str, store: Store, capsys: pytest.CaptureFixture[str]):
    named = ["s", "--out", str(store.root)] if by == "name" else [str(store.study_folder("s"))]
    assert main(["study", "status", *named, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["stages"] == [
        {"stage": "main", "runs": 2, "done": 1, "running": 0, "failed": 0, "waiting": 1},
    ]
    assert shown["is_over"] is False


def test_the_terminal_shows_runs_that_report_and_says_when_none_does(store: Store, capsys: pytest.CaptureFixture[str]):
    import time

    ask = ["study", "status", "s", "--out", str(store.root)]
    main(ask)
    assert "s: not running" in capsys.readouterr().out
    going = {"stage": "training", "step": 3, "num_steps": 8, "loss": 1.5, "started": time.time()}
    store.write_progress("b", {**going, "at": time.time()})
    main(ask)
    shown = capsys.readouterr().out
    assert "running, end not known yet" in shown
    assert "[red]arm seed=0" in shown
    assert "training 3/8" in shown
    assert "loss 1.500" in shown
    store.write_result(stub_record(PlannedRun("b", "", "", 0, CONFIG)))
    main([*ask, "--watch"])
    assert "all runs are done" in capsys.readouterr().out


def test_an_unknown_study_is_wrong_input(store: Store, capsys: pytest.CaptureFixture[str]):
    assert main(["study", "status", "none", "--out", str(store.root)]) == 2
    assert "it holds s" in capsys.readouterr().err
    assert main(["study", "status", "s", "--out", str(store.root / "nowhere")]) == 2


def test_study_takes_a_recipe_still(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["study", str(tmp_path / "status.yaml")]) == 2
    assert "status.yaml" in capsys.readouterr().err
