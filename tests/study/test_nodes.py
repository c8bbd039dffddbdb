"""The machines that share a run: read from the environment, refused where they contradict each other."""

import stat
from pathlib import Path

import pytest

from neftune.errors import ConfigError
from neftune.study.nodes import STORE, Nodes, rendezvous


def test_one_machine_where_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch):
    for name in ("NEFTUNE_NODES", "NEFTUNE_NODE", "NEFTUNE_RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    assert Nodes.from_environment() == Nodes()
    assert Nodes().share(4) == 4


def test_several_machines_share_the_ranks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NEFTUNE_NODES", "2")
    monkeypatch.setenv("NEFTUNE_NODE", "1")
    monkeypatch.setenv("NEFTUNE_RENDEZVOUS", "10.0.0.7:29400")
    nodes = Nodes.from_environment()
    assert nodes == Nodes(2, 1, "10.0.0.7", 29400)
    assert nodes.share(4) == 2
    with pytest.raises(ConfigError, match="multiple of the machines, got 3 and 2"):
        nodes.share(3)
    with rendezvous(nodes) as (options, environment):
        assert options[-6:] == ["--node-rank", "1", "--master-addr", "10.0.0.7", "--master-port", "29400"]
        assert environment == {}


@pytest.mark.parametrize(
    ("name", "value"), [("NEFTUNE_NODES", "two"), ("NEFTUNE_NODE", "2"), ("NEFTUNE_RENDEZVOUS", "10.0.0.7:no")]
)
def test_contradictions_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv("NEFTUNE_NODES", "2")
    monkeypatch.setenv("NEFTUNE_NODE", "1")
    monkeypatch.setenv("NEFTUNE_RENDEZVOUS", "10.0.0.7:29400")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="NEFTUNE_RENDEZVOUS"):
        Nodes.from_environment()


def test_ranks_of_one_machine_meet_in_a_folder_of_their_own():
    with rendezvous(Nodes()) as (options, environment):
        folder = Path(environment[STORE]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert str(folder / "agents") in options
        assert "127.0.0.1" in options
    assert not folder.exists()
