"""Worker processes: the GPUs they see, the slots they take, and a death that costs one run alone."""

from pathlib import Path

import pytest

from neftune.errors import ConfigError
from neftune.study.executors import Resources, Status, executors
from neftune.study.executors.local import make_slots, visible_gpus
from neftune.study.executors.resources import SlurmOptions
from neftune.study.store import Store
from tests.scripted_runs import attempts, perform_script, scripted_run

LOCAL = executors["local"]


def ignore(status: Status) -> None:
    pass


@pytest.mark.parametrize(
    ("resources", "gpus", "largest", "slots"),
    [
        (Resources(workers=3), "", 1, ["", "", ""]),
        (Resources(workers=3, gpus_per_run=0), "ab", 1, ["", "", ""]),
        (Resources(), "ab", 1, ["a", "b"]),
        (Resources(gpus_per_run=0.5), "ab", 1, ["a", "b", "a", "b"]),
        (Resources(gpus_per_run=0.3), "a", 1, ["a", "a", "a"]),
        (Resources(workers=3, gpus_per_run=0.5), "ab", 1, ["a", "b", "a"]),
        (Resources(gpus_per_run=2), "abcde", 1, ["a,b", "c,d"]),
        (Resources(), "abcd", 2, ["a", "b", "c", "d"]),
        (Resources(threads=64), "", 3, ["", "", ""]),
    ],
)
def test_slots(resources: Resources, gpus: str, largest: int, slots: list[str]):
    assert make_slots(resources, list(gpus), largest) == slots


@pytest.mark.parametrize(
    ("resources", "gpus", "largest", "message"),
    [
        (Resources(workers=3), "ab", 1, r"3 runs .* need 3 GPUs, got 2\. Use fewer --workers"),
        (Resources(gpus_per_run=1), "", 1, "need 1 GPUs, got 0"),
        (Resources(workers=2), "", 4, r"4 processes needs 4 workers, got 2\. Give --workers"),
        (Resources(gpus_per_run=0.5), "ab", 2, r"2 processes needs a whole GPU for each, got --gpus-per-run 0\.5"),
    ],
)
def test_what_is_not_there_is_refused(resources: Resources, gpus: str, largest: int, message: str):
    with pytest.raises(ConfigError, match=message):
        make_slots(resources, list(gpus), largest)


@pytest.mark.parametrize("values", [{"gpus_per_run": 1.5}, {"gpus_per_run": -1}, {"threads": 0}, {"workers": 0}])
def test_impossible_resources_are_refused(values: dict[str, float]):
    with pytest.raises(ConfigError, match="must be"):
        Resources(**values)


@pytest.mark.parametrize("resources", [Resources(address="auto"), Resources(slurm=SlurmOptions())])
def test_a_setting_of_another_executor_is_refused(tmp_path: Path, resources: Resources):
    with pytest.raises(ConfigError, match="belongs to --executor"):
        LOCAL(Store(tmp_path), [scripted_run("a")], resources=resources, watch=ignore, perform=perform_script)


def test_runs_share_two_gpus_and_a_run_of_two_processes_sees_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus() == ["3", "5"]
    runs = [scripted_run("both", world_size=2), scripted_run("a", until=str(tmp_path / "b")), scripted_run("b")]
    seen: list[set[str]] = []

    def watch(status: Status) -> None:
        seen.append(set(status.running))
        if attempts(tmp_path, "a") and attempts(tmp_path, "b"):
            (tmp_path / "b").touch()

    status = LOCAL(Store(tmp_path), runs, resources=Resources(threads=3), watch=watch, perform=perform_script)
    assert len(status.done) == 3
    gpus = {run.run_id: attempts(tmp_path, run.run_id)[0]["gpus"] for run in runs}
    assert gpus["both"] == "3,5"
    assert {gpus["a"], gpus["b"]} == {"3", "5"}
    assert {"a", "b"} in seen
    assert not any("both" in running and len(running) > 1 for running in seen)
    assert attempts(tmp_path, "a")[0]["threads"] == "3"


def test_a_death_costs_its_own_run_alone(tmp_path: Path):
    beside = tmp_path / "beside"
    runs = [
        scripted_run("bad", dies=9),
        scripted_run("slow", until=str(beside)),
        scripted_run("once", dies=1),
        scripted_run("last"),
    ]
    waiting: list[set[str]] = []

    def watch(status: Status) -> None:
        waiting.append(set(status.running))
        if attempts(tmp_path, "last"):
            beside.touch()

    status = LOCAL(Store(tmp_path), runs, resources=Resources(workers=2), watch=watch, perform=perform_script)
    assert {run.run_id for run in status.done} == {"slow", "once", "last"}
    assert {name: failure.error for name, failure in status.failed.items()} == {"bad": "WorkerDied"}
    counts = {run.run_id: len(attempts(tmp_path, run.run_id)) for run in runs}
    assert counts == {"bad": 3, "slow": 1, "once": 2, "last": 1}
