"""Two machines share a run: here two agents on one, which find each other as machines do."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from neftune.config import RunConfig
from neftune.study.launch import assist, perform_run
from neftune.study.nodes import Nodes
from tests.tiny import make_recipe

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_run_of_two_machines_is_the_run_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe: dict[str, Any] = make_recipe(tmp_path)
    train = {**recipe["train"], "epochs": 1, "micro_batch_size": 2}
    settings = {name: recipe[name] for name in ("model", "data", "evaluate")} | {"noise": {"alpha": 5}}
    alone = perform_run(
        "alone", RunConfig.model_validate({**settings, "train": train}), tmp_path / "alone", evaluate=False
    )
    config = RunConfig.model_validate({**settings, "train": {**train, "world_size": 2}})
    address, port = "127.0.0.1", free_port()
    other = threading.Thread(target=assist, args=(config, tmp_path / "both", Nodes(2, 1, address, port)))
    for name, value in (("NODES", "2"), ("NODE", "0"), ("RENDEZVOUS", f"{address}:{port}")):
        monkeypatch.setenv(f"NEFTUNE_{name}", value)
    # Its ranks read what machine 0 wrote before any of them could meet.
    other.start()
    both = perform_run("both", config, tmp_path / "both", evaluate=False)
    other.join()
    assert both.counts == alone.counts
    assert both.noise is not None
    assert both.noise.num_documents == alone.noise.num_documents == 24
    assert [point.values for point in both.history] == [
        pytest.approx(point.values, rel=1e-5) for point in alone.history
    ]
