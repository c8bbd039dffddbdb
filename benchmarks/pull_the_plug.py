"""Is a study that is killed again and again the study that nobody disturbed?

A real study (`neftune study`, two workers) on a random model with checkpoints and saved weights: its driver and all
workers are killed by SIGKILL at moments of four kinds, drawn by seed, and the same command starts again each time:

    time        after some seconds
    checkpoint  while a checkpoint is being written (its folder is there, its seal is not)
    result      while a result is being written, or just was (its temporary file, or the result without the removal of
                its checkpoints)
    driver      the driver alone, whose workers must end by themselves

Afterwards the scores and the saved weights are compared with the undisturbed study's, byte for byte. Prints JSON:

    python -m benchmarks.pull_the_plug > benchmarks/results/pull_the_plug_<hardware>_<yyyymm>.json
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from benchmarks.noise_overhead import processor

import neftune
from tests.chaos.plug import living, numbers, stamps, weights
from tests.tiny import make_checkpoint, make_recipe

KINDS = ("time", "checkpoint", "result", "driver")


def write_study(folder: Path, *, seeds: int, epochs: int) -> Path:
    """Two arms and a control arm over seeds; runs of some seconds with a checkpoint twice an epoch."""
    values: dict[str, Any] = make_recipe(folder)
    make_checkpoint(folder / "checkpoint", width=128)
    values["train"] |= {"epochs": epochs, "checkpoints": 2 * epochs, "save_model": True, "evaluations": epochs}
    match = {"noise.alpha": 5}
    values["study"] = {
        "scientific": {"noise.alpha": [0, 5, 20]},
        "seeds": list(range(seeds)),
        "controls": [{"match": match}],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def command(recipe: Path, out: Path) -> list[str]:
    """What a user types."""
    return [sys.executable, "-m", "neftune.cli.main", "study", str(recipe), "--out", str(out), "--workers", "2"]


def start(recipe: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    """A driver in a process group of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(command(recipe, out), stdout=file, stderr=file, start_new_session=True)


def traces(kind: str, out: Path) -> set[Path]:
    """What is half done: checkpoints without a seal, results being written or whose checkpoints are still there."""
    if kind == "checkpoint":
        folders = out.glob("runs/*/checkpoints/checkpoint-*")
        return {one for one in folders if not (one / "neftune_seal.json").exists()}
    if kind == "result":
        done = {path.parent for path in out.glob("runs/*/result.json")}
        return {*out.glob("runs/*/.result.json.*"), *(one for one in done if (one / "checkpoints").is_dir())}
    return set(out.glob("runs/*/progress.json"))


def pull(driver: subprocess.Popen[bytes], kind: str, out: Path, rng: random.Random) -> bool:
    """Kill at a moment of this kind; whether the driver was still at work."""
    earliest = time.monotonic() + (rng.uniform(6, 14) if kind in ("time", "driver") else 0)
    before = traces(kind, out) if kind in ("checkpoint", "result") else set[Path]()
    while driver.poll() is None and (time.monotonic() < earliest or not traces(kind, out) - before):
        time.sleep(0.0005)
    if driver.poll() is not None:
        return False
    if kind == "driver":
        driver.kill()
    else:
        os.killpg(driver.pid, signal.SIGKILL)
    return driver.wait() == -signal.SIGKILL


def wait_until_gone(group: int) -> float:
    """Seconds until no process of a killed driver is left."""
    begun = time.monotonic()
    while living(group):
        if time.monotonic() - begun > 60:
            raise RuntimeError(f"processes {living(group)} outlived their driver")
        time.sleep(0.02)
    return time.monotonic() - begun


def left_behind(out: Path) -> dict[str, int]:
    """What the kill left half done."""
    checkpoints = list(out.glob("runs/*/checkpoints/checkpoint-*"))
    return {
        "finished_runs": len(stamps(out)),
        "sealed_checkpoints": sum((one / "neftune_seal.json").exists() for one in checkpoints),
        "half_checkpoints": sum(not (one / "neftune_seal.json").exists() for one in checkpoints),
        "half_results": len(list(out.glob("runs/*/.result.json.*"))),
        "results_before_cleaning": sum(
            (path.parent / "checkpoints").is_dir() for path in out.glob("runs/*/result.json")
        ),
    }


def main() -> None:
    """Run the study twice, once undisturbed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_study(folder, seeds=options.seeds, epochs=options.epochs)
        calm, out, log = folder / "undisturbed", folder / "killed", folder / "log.txt"
        begun = time.monotonic()
        undisturbed_code = start(recipe, calm, log).wait()
        calm_seconds = time.monotonic() - begun
        kills: list[dict[str, Any]] = []
        redone = 0
        finished: dict[str, tuple[int, int]] = {}
        while len(kills) < options.kills:
            kind = KINDS[len(kills) % len(KINDS)]
            begun = time.monotonic()
            driver = start(recipe, out, log)
            was_at_work = pull(driver, kind, out, rng)
            gone = wait_until_gone(driver.pid)
            now = stamps(out)
            redone += sum(now.get(run) != stamp for run, stamp in finished.items())
            finished = now
            if not was_at_work:
                break
            kills.append(
                {"kind": kind, "after_seconds": round(time.monotonic() - begun, 2), "gone_after": round(gone, 2)}
                | left_behind(out)
            )
            print(len(kills), kills[-1], file=sys.stderr)
        begun = time.monotonic()
        code = start(recipe, out, log).wait()
        now = stamps(out)
        redone += sum(now.get(run) != stamp for run, stamp in finished.items())
        result = {
            "what": "a study whose driver and workers were killed by SIGKILL, beside the undisturbed one",
            "runs": len(numbers(calm)),
            "undisturbed": {"exit_code": undisturbed_code, "seconds": round(calm_seconds, 1)},
            "kills": len(kills),
            "kills_by_kind": dict(Counter(one["kind"] for one in kills)),
            "moments": kills,
            "last_start": {"exit_code": code, "seconds": round(time.monotonic() - begun, 1)},
            "finished_runs_lost_or_redone": redone,
            "scores_bit_identical": numbers(calm) == numbers(out),
            "weights_bit_identical": weights(calm) == weights(out),
            "weights_compared": len(weights(calm)),
            "checkpoints_left": len(list(out.glob("runs/*/checkpoints"))),
            "settings": {"epochs": options.epochs, "seeds": options.seeds, "seed": options.seed, "workers": 2},
            "hardware": {"cpu": processor(), "cores": os.cpu_count()},
            "versions": {"neftune": neftune.__version__, "python": platform.python_version()},
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
