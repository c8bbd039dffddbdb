"""Planned runs that train nothing, and what performs them in place of `neftune.study.worker.perform`."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from neftune.records import Failure, PlannedRun
from neftune.study.store import Store


def scripted_run(name: str, *, after: str | None = None, world_size: int = 1, **does: Any) -> PlannedRun:
    """A run named ``name`` that does what `perform_script` reads in its settings."""
    return PlannedRun(name, "arm", "", 0, {"train": {"world_size": world_size}, "does": does}, after=after)


def perform_script(root: Path, run: PlannedRun) -> Failure | None:
    """Leave a line about this attempt, then finish, fail, die or wait as the run says.

    fails: fail; dies: kill this process at the first so many attempts; until: wait for this file.
    """
    store, does = Store(root), run.config["does"]
    with store.claim(run.run_id):
        if store.is_done(run.run_id):
            return None
        folder = store.run_folder(run.run_id)
        seen = {"pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "node": _ray_node()}
        seen |= {"threads": os.environ.get("OMP_NUM_THREADS"), "at": time.time()}
        with (folder / "attempts.jsonl").open("a") as file:
            file.write(json.dumps(seen) + "\n")
        if len(attempts(root, run.run_id)) <= does.get("dies", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        while "until" in does and not Path(does["until"]).exists():
            time.sleep(0.02)
        if does.get("fails"):
            return Failure(run.run_id, "DivergedError", "as asked")
        (folder / "result.json").write_text("{}")
    return None


def attempts(root: Path, run_id: str) -> list[dict[str, Any]]:
    """What each attempt at a run saw."""
    path = root / "runs" / run_id / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _ray_node() -> str | None:
    import sys

    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else None
