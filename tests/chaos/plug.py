"""Starting drivers that can be killed, and reading what is left of a study."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.tiny import make_recipe

SECONDS_TO_END = 120.0
"""A driver that has not ended by then hangs."""


@dataclass
class Driver:
    """A driver that was started: its process, also the id of its group."""

    pid: int
    plug: "Plug"

    def kill(self) -> int:
        """SIGKILL to the driver and all its workers; its exit code, which is its own where it ended before."""
        self._signal(os.killpg)
        return self.wait()

    def kill_alone(self) -> int:
        """SIGKILL to the driver alone."""
        self._signal(os.kill)
        return self.wait()

    def wait(self) -> int:
        """Its exit code."""
        return self.plug.code(self.pid)

    def has_ended(self, within: float) -> bool:
        """Whether it ends by itself within some seconds."""
        return self.plug.has_code(self.pid, within)

    def is_gone(self) -> bool:
        """Whether no process of its group is left, soon."""
        until = time.monotonic() + SECONDS_TO_END
        while time.monotonic() < until:
            if not living(self.pid):
                return True
            time.sleep(0.05)
        return False

    def _signal(self, send: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            send(self.pid, signal.SIGKILL)


class Plug:
    """Drivers forked from one process that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "drivers.log"
        command = [sys.executable, "-m", "tests.chaos.drivers"]
        with self.log.open("a") as log:
            self.server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self.codes: dict[int, int] = {}
        threading.Thread(target=self._read, daemon=True).start()
        self._take("ready")

    def start(self, *arguments: str, kill_at: int | None = None, file_size: int | None = None) -> Driver:
        """`neftune` with these arguments."""
        request = {"arguments": arguments, "log": str(self.log), "kill_at": kill_at, "file_size": file_size}
        assert self.server.stdin
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return Driver(self._take("pid")["pid"], self)

    def run(self, *arguments: str, **limits: int) -> tuple[int, str]:
        """The exit code of `neftune` with these arguments, and what it said."""
        before = self.log.stat().st_size
        code = self.start(*arguments, **limits).wait()
        return code, self.log.read_bytes()[before:].decode()

    def code(self, pid: int) -> int:
        """The exit code of a driver; waits for its end."""
        if not self.has_code(pid, SECONDS_TO_END):
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError(f"a driver hangs; it said\n{self.log.read_text()[-2000:]}")
        return self.codes[pid]

    def has_code(self, pid: int, within: float) -> bool:
        """Whether a driver ends within some seconds."""
        until = time.monotonic() + within
        while pid not in self.codes and (left := until - time.monotonic()) > 0:
            self._note(left)
        return pid in self.codes

    def close(self) -> None:
        """End."""
        self.server.kill()
        self.server.wait()
        for stream in (self.server.stdin, self.server.stdout):
            if stream:
                stream.close()

    def _note(self, within: float) -> dict[str, Any] | None:
        try:
            values = self.replies.get(timeout=within)
        except queue.Empty:
            return None
        if "code" in values:
            self.codes[values["pid"]] = values["code"]
        return values

    def _take(self, what: str) -> dict[str, Any]:
        while True:
            values = self._note(SECONDS_TO_END)
            assert values, f"no driver could be started: {self.log.read_text()[-2000:]}"
            if what in values and "code" not in values:
                return values

    def _read(self) -> None:
        assert self.server.stdout
        for line in self.server.stdout:
            self.replies.put(json.loads(line))


def living(group: int) -> list[int]:
    """Processes of a group that are not dead yet."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def write_recipe(folder: Path, *, seeds: int, failing: bool = False) -> Path:
    """A study of two arms on a checkpoint of a few kilobytes, whose runs save checkpoints and weights.

    Args:
        folder: Where it goes, with its data.
        seeds: Two runs each.
        failing: Whether there is an arm that diverges and one whose code raises, too.
    """
    values: dict[str, Any] = make_recipe(folder)
    values["train"] |= {"epochs": 4, "checkpoints": 4, "save_model": True}
    arms: list[dict[str, Any]] = [{"noise.alpha": 0}, {"noise.alpha": 5}]
    if failing:
        arms += [{"noise.alpha": 5, "train.learning_rate": 1e30}, {"noise.alpha": 5, "noise.distribution": "broken"}]
    values["study"] = {"arms": arms, "seeds": list(range(seeds))}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every result: they change where a result is written again."""
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("runs/*/result.json")}


def numbers(out: Path) -> dict[str, dict[str, Any]]:
    """What runs found, without what depends on the clock."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(out.glob("runs/*/result.json")):
        values = json.loads(path.read_text())
        found[path.parent.name] = {
            key: values[key] for key in ("config", "history", "answers", "scores", "noise", "alpha", "counts")
        }
    return found


def weights(out: Path) -> dict[str, bytes]:
    """The saved weights of every run, byte for byte."""
    return {path.parent.parent.name: path.read_bytes() for path in sorted(out.glob("runs/*/model/*.safetensors"))}


def litter(out: Path) -> list[str]:
    """What a finished study should not leave: half-written files of finished runs are pruned, checkpoints are gone."""
    return sorted(str(path.relative_to(out)) for path in out.glob("runs/*/checkpoints") if path.is_dir())
