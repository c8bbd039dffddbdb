"""A process that has imported all that training needs and forks a driver for each line it reads.

A study that is killed twenty times must start again in a moment to be tested at all: a start of Python with torch, TRL
and transformers takes seconds. A driver is `neftune ...` in a process group of its own, workers included.

A line is JSON: {"arguments": [...], "log": file, "kill_at": n or null, "file_size": bytes or null}. With kill_at its
group is killed by SIGKILL at the n-th change of a file (made, renamed, removed) that one of its processes makes under
the folder of --out: inside a checkpoint, between a result and the removal of its checkpoints, and so on. Replies:
{"pid": n} at once, {"pid": n, "code": exit code, negative for a signal} when it has ended.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
from typing import Any

MODULES = (
    "datasets", "numba", "pandas", "plotly", "rapidfuzz.distance", "sacrebleu.metrics", "scipy.stats", "tyro",
    "trl.trainer.sft_trainer", "transformers.models.llama.modeling_llama", "transformers.integrations",
    "neftune.cli.study", "neftune.evaluation.evaluate", "neftune.integrations.transformers", "neftune.noise.attach",
    "neftune.noise.kernels", "neftune.report.page", "neftune.report.summary", "neftune.study.run",
    "neftune.study.study", "neftune.training.finetune", "neftune.training.models", "neftune.training.trainer",
)  # fmt: skip
"""What a study imports on its way."""

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def serve() -> None:
    """Read lines, fork drivers, until the input ends."""
    for name in MODULES:
        importlib.import_module(name)
    from neftune.noise.distributions import Distribution, distributions

    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork  # a worker is forked too, for the same reason
    distributions.register("broken")(Distribution(std=1.0, bits=32, fraction_bits=0, numbers=_raise))
    reply({"ready": os.getpid()})
    for line in sys.stdin:
        request = json.loads(line)
        said, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            _drive(request, into)
        os.close(into)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        reply({"pid": pid})
        threading.Thread(target=_wait_for, args=(pid, said, request["log"]), daemon=True).start()


def reply(values: dict[str, Any]) -> None:
    """One line to whoever asked."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _wait_for(pid: int, said: int, log: str) -> None:
    """Copy what a driver says, until none of its processes is left, and reply its exit code."""
    with os.fdopen(said, "rb") as source, open(log, "ab", buffering=0) as file:  # noqa: PTH123
        while some := source.read1():
            file.write(some)
    _, status = os.waitpid(pid, 0)
    reply({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _drive(request: dict[str, Any], into: int) -> None:
    """Be a driver, and end."""
    code = 70
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # A pipe, not the file itself: a limit on the size of files is not for what is said.
        os.dup2(into, 1)
        os.dup2(into, 2)
        if request["file_size"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
        if request["kill_at"]:
            folder = request["arguments"][request["arguments"].index("--out") + 1]
            sys.addaudithook(_Killer(folder, request["kill_at"]))
        from neftune.cli.main import main

        code = main(request["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


class _Killer:
    """Counts changes of files and kills this process's group at one of them."""

    def __init__(self, folder: str, at: int) -> None:
        self.folder = folder
        self.left = at

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not self._is_change(event, arguments):
            return
        self.left -= 1
        if self.left <= 0:
            os.killpg(0, signal.SIGKILL)

    def _is_change(self, event: str, arguments: tuple[Any, ...]) -> bool:
        path, mode = arguments[0], arguments[1] if len(arguments) > 1 else None
        if isinstance(path, int):
            return False
        if event == "open" and isinstance(mode, str) and not set(mode) & set("wax+"):
            return False
        if event == "open" and mode is None and not arguments[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            return False
        # shutil.rmtree names files relative to an open folder: those are ours.
        text = os.fsdecode(path)
        return text.startswith(self.folder) or not text.startswith("/")


def _raise(words: object) -> Any:
    raise RuntimeError("this distribution is broken on purpose")


if __name__ == "__main__":
    serve()
