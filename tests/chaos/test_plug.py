"""Whatever is pulled, the same command goes on to what an undisturbed study gives, bit for bit."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neftune.study.store import Store
from tests.chaos.plug import Driver, Plug, litter, numbers, stamps, weights, write_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, to see that no process is left"),
]

KILLS = 20
KILLED = -9


@pytest.fixture(scope="module")
def plug(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plug]:
    plug = Plug(tmp_path_factory.mktemp("plug"))
    yield plug
    plug.close()


class Study:
    """A recipe, and what it gives when nobody disturbs it."""

    def __init__(self, plug: Plug, folder: Path, **of_recipe: object) -> None:
        self.plug = plug
        self.folder = folder
        self.recipe = write_recipe(folder, **of_recipe)  # pyright: ignore[reportArgumentType]
        self.code, self.said = plug.run(*self.command(folder / "undisturbed"))
        self.numbers, self.weights = numbers(folder / "undisturbed"), weights(folder / "undisturbed")

    def command(self, out: Path) -> tuple[str, ...]:
        return ("study", str(self.recipe), "--out", str(out), "--workers", "2")

    def start(self, out: Path, **limits: int) -> Driver:
        return self.plug.start(*self.command(out), **limits)

    def finish(self, out: Path) -> str:
        """Run to the end, which must be the undisturbed one's; what was said."""
        code, said = self.plug.run(*self.command(out))
        assert code == self.code, said
        assert numbers(out) == self.numbers
        assert weights(out) == self.weights
        return said


@pytest.fixture(scope="module")
def failing(plug: Plug, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Eight runs, of which two diverge and two raise."""
    study = Study(plug, tmp_path_factory.mktemp("failing"), seeds=2, failing=True)
    assert study.code == 1
    assert len(study.numbers) == len(study.weights) == 4
    return study


@pytest.fixture(scope="module")
def study(plug: Plug, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two runs."""
    study = Study(plug, tmp_path_factory.mktemp("small"), seeds=1)
    assert study.code == 0
    assert len(study.weights) == 2
    return study


def test_killed_twenty_times_equals_undisturbed(failing: Study, tmp_path: Path):
    rng = random.Random(0)
    kills, out, finished = 0, tmp_path / "0", {}
    while kills < KILLS:
        by_time = rng.random() < 0.3
        driver = failing.start(out) if by_time else failing.start(out, kill_at=rng.randint(5, 90))
        if by_time:
            time.sleep(rng.uniform(0.05, 2.0))
        code = driver.kill() if by_time else driver.wait()
        assert driver.is_gone(), "a killed study leaves no process behind"
        now = stamps(out)
        assert {run: stamp for run, stamp in now.items() if run in finished} == finished, "nothing is lost or redone"
        finished = now
        if code == KILLED:
            kills += 1
        else:  # The study was over before the plug was pulled: it is compared, and another one is begun.
            failing.finish(out)
            out, finished = tmp_path / str(kills), {}
    failing.finish(out)
    assert {run: stamp for run, stamp in stamps(out).items() if run in finished} == finished
    assert not [path for path in litter(out) if path.split("/")[1] in failing.numbers]


def test_the_report_says_what_failed_and_why(failing: Study):
    report = (failing.folder / "undisturbed/studies/tiny/report.html").read_text()
    for said in (report, failing.said):
        words = " ".join(said.split())
        assert "the gradient norm must stay finite, got nan" in words
        assert "this distribution is broken on purpose" in words
    failures = Store(failing.folder / "undisturbed", read_only=True).read_study("tiny").failures
    assert sorted(one.error for one in failures.values()) == ["DivergedError", "DivergedError", *["RuntimeError"] * 2]


def test_a_driver_killed_alone_takes_its_workers_with_it(study: Study, tmp_path: Path):
    driver = study.start(tmp_path)
    while not any(tmp_path.glob("runs/*/progress.json")):
        assert not driver.has_ended(0.02)
    assert driver.kill_alone() == KILLED
    assert driver.is_gone()
    study.finish(tmp_path)


def test_two_drivers_share_a_folder_and_do_nothing_twice(failing: Study, tmp_path: Path):
    both = [failing.start(tmp_path), failing.start(tmp_path)]
    seen: dict[str, tuple[int, int]] = {}
    while not (both[0].has_ended(0.02) & both[1].has_ended(0.02)):
        now = stamps(tmp_path)
        assert {run: now.get(run) for run in seen} == seen
        seen = now
    assert [driver.wait() for driver in both] == [1, 1]
    before = stamps(tmp_path)
    failing.finish(tmp_path)
    assert stamps(tmp_path) == before


def test_a_full_disk_is_one_clear_error_and_loses_nothing(study: Study, tmp_path: Path):
    with_room = tmp_path / "disk"
    with_room.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(with_room)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a small tmpfs, which takes root")
    try:
        code, said = study.plug.run(*study.command(with_room / "out"))
        assert code == 1
        assert "No space left on device" in said
        assert len(numbers(with_room / "out")) < 2, "the disk must be too small for this test to test anything"
        assert "not an error we foresaw" not in said
        subprocess.run(["mount", "-o", "remount,size=64m", str(with_room)], check=True)
        study.finish(with_room / "out")
    finally:
        subprocess.run(["umount", str(with_room)], check=True)


@pytest.mark.parametrize("limit", [600, 20_000])
def test_files_that_may_not_grow_are_a_full_disk_too(study: Study, tmp_path: Path, limit: int):
    code, said = study.plug.run(*study.command(tmp_path), file_size=limit)
    assert code == 1
    assert "File too large" in said
    assert "not an error we foresaw" not in said
    assert not stamps(tmp_path)
    study.finish(tmp_path)


def test_a_folder_that_vanishes_is_an_error_and_comes_back(study: Study, tmp_path: Path):
    out = tmp_path / "out"
    driver = study.start(out)
    while not any(out.glob("runs/*/checkpoints/checkpoint-*")):
        assert not driver.has_ended(0.01)
    shutil.rmtree(out, ignore_errors=True)
    driver.wait()
    assert driver.is_gone()
    study.finish(out)


def test_a_read_only_folder_can_be_looked_at_and_refuses_a_study(study: Study, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(study.folder / "undisturbed", out)
    if os.geteuid() or subprocess.run(["mount", "--bind", str(out), str(out)], capture_output=True).returncode:
        pytest.skip("needs to mount a folder read-only, which takes root")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(out)], check=True)
        code, said = study.plug.run("list", "--out", str(out))
        assert code == 0
        assert "tiny" in said
        assert study.plug.run("list", "runs", "--out", str(out))[0] == 0
        code, said = study.plug.run(*study.command(out))
        assert code == 2
        assert "the output folder must be writable" in said
        code, said = study.plug.run("report", "tiny", "--out", str(out))
        assert code in (1, 2)
        assert "Read-only file system" in said
        assert "not an error we foresaw" not in said
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_a_result_cut_short_is_run_again(study: Study, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(study.folder / "undisturbed", out)
    cut, kept = sorted(out.glob("runs/*/result.json"))
    cut.write_bytes(cut.read_bytes()[:200])
    before = kept.stat().st_mtime_ns
    study.finish(out)
    assert kept.stat().st_mtime_ns == before
