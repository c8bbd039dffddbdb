"""A job array: its script is run by bash as Slurm would run it, by a stand-in for sbatch, squeue and scancel."""

from pathlib import Path
from typing import Any

import pytest

from neftune.errors import ConfigError
from neftune.study.executors import Resources, Status, executors, slurm
from neftune.study.executors.resources import SlurmOptions
from neftune.study.executors.slurm import array_script
from neftune.study.files import read_json
from neftune.study.store import Store
from tests.scripted_runs import attempts, perform_script, scripted_run
from tests.slurm_stand_in import stand_in

SLURM = executors["slurm"]
CPU = Resources(gpus_per_run=0, threads=2)


def ignore(status: Status) -> None:
    pass


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return stand_in(tmp_path / "bin", monkeypatch)


def perform(root: Path, runs: list[Any], resources: Resources = CPU, watch: Any = ignore) -> Status:
    return SLURM(Store(root), runs, resources=resources, watch=watch, perform=perform_script)


def test_the_array_performs_every_run_and_what_needs_one_comes_after_it(cluster: Path, tmp_path: Path):
    runs = [scripted_run("control", after="a"), scripted_run("a"), scripted_run("bad", fails=True)]
    status = perform(tmp_path / "out", runs)
    assert {run.run_id for run in status.done} == {"a", "control"}
    assert status.failed["bad"].message == "as asked"
    assert attempts(tmp_path / "out", "a")[0]["threads"] == "2"
    assert attempts(tmp_path / "out", "a")[0]["gpus"] == ""
    assert len(list(cluster.glob("*.job"))) == 2


def test_more_runs_than_elements_share_them(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm, "MOST_ELEMENTS", 2)
    runs = [scripted_run(str(number)) for number in range(5)]
    assert len(perform(tmp_path / "out", runs).done) == 5
    assert len({attempts(tmp_path / "out", run.run_id)[0]["pid"] for run in runs}) == 2


def test_a_job_that_ends_without_a_word_is_submitted_again_and_given_up(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(slurm, "MOST_ELEMENTS", 2)
    runs = [scripted_run("once", dies=1), scripted_run("bad", dies=9), scripted_run("behind it")]
    status = perform(tmp_path / "out", runs)
    assert {run.run_id for run in status.done} == {"once", "behind it"}
    assert {name: failure.error for name, failure in status.failed.items()} == {"bad": "WorkerDied"}
    assert "--slurm-memory" in status.failed["bad"].message
    assert [len(attempts(tmp_path / "out", run.run_id)) for run in runs] == [2, 3, 1]


def test_a_stopped_driver_cancels_its_jobs(cluster: Path, tmp_path: Path):
    out = tmp_path / "out"

    def stop(status: Status) -> None:
        if attempts(out, "a"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(out, [scripted_run("a", until=str(tmp_path / "never"))], watch=stop)
    pid = attempts(out, "a")[0]["pid"]
    # The claim is released when the process has ended, however long that takes.
    with Store(out).claim("a"):
        stat_path = Path(f"/proc/{pid}/stat")
        assert not stat_path.exists() or stat_path.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_without_sbatch_the_script_is_written_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"The script of 2 runs is written: .*`sbatch .*array\.sh`.*study status"):
        perform(tmp_path / "out", [scripted_run("a"), scripted_run("b")])
    (script,) = (tmp_path / "out").glob("slurm/*/array.sh")
    assert "#SBATCH --array=0-1\n" in script.read_text()
    assert [run["run_id"] for run in read_json(script.parent / "runs.json")["runs"]] == ["a", "b"]


def test_the_script_asks_for_what_the_options_say():
    options = SlurmOptions(
        partition="gpu", time="2:00:00", memory="32G", setup=("module load cuda",), options=("--account=lab",)
    )
    resources = Resources(workers=4, threads=3, gpus_per_run=1, slurm=options)
    text = array_script(
        Path("/out/a b"), elements=10, processes=2, resources=resources, folder_of_driver=Path("/home/me/my study")
    )
    for line in (
        "#SBATCH --array=0-9%4",
        "#SBATCH --cpus-per-task=6",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=2:00:00",
        "#SBATCH --mem=32G",
        "#SBATCH --account=lab",
        "module load cuda",
        "cd '/home/me/my study' || exit 1",
    ):
        assert line in text.splitlines()
    assert text.index("module load") > text.rindex("#SBATCH")


@pytest.mark.parametrize("gpus", [None, 0.5])
def test_gpus_must_be_said_and_whole(tmp_path: Path, gpus: float | None):
    with pytest.raises(ConfigError, match="needs --gpus-per-run as a whole number"):
        perform(tmp_path, [scripted_run("a")], Resources(gpus_per_run=gpus))


def test_what_sbatch_refuses_is_shown(cluster: Path, tmp_path: Path):
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: x' >&2\nexit 1\n")
    with pytest.raises(ConfigError, match="got: invalid partition specified: x"):
        perform(tmp_path / "out", [scripted_run("a")])
