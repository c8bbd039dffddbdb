"""A Slurm job array: one element a run, the same function in each; the driver watches the folder.

ROOT/slurm/<array>/   runs.json  array.sh  job.json  log-<element>.txt  ended/<run id>.json

Plain sbatch, not submitit: the script can be read and submitted by hand, and nothing is pickled.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from neftune.errors import ConfigError
from neftune.records import Failure, PlannedRun
from neftune.study.executors.protocol import Perform, Watch
from neftune.study.executors.resources import Resources, SlurmOptions, refuse, world_size
from neftune.study.executors.status import Line, Status
from neftune.study.files import read_json, write_bytes, write_json
from neftune.study.store import Store
from neftune.study.worker import perform

MOST_ELEMENTS = 1000
"""Elements of one array (Slurm's usual MaxArraySize is 1001); more runs than that share elements, one after another."""

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_QUESTIONS = 30.0
"""How often squeue is asked which elements still exist."""

_UNLIMITED = sys.maxsize
_HINT = "out of memory or time? See its log under slurm/ in the output folder; raise --slurm-memory or --slurm-time"


def on_slurm(
    store: Store, runs: Sequence[PlannedRun], *, resources: Resources, watch: Watch, perform: Perform = perform
) -> Status:
    """A Slurm job array, submitted with sbatch and watched through the folder that all nodes share."""
    refuse(resources, "slurm", ("address",))
    line = Line(store, runs, alone=False)
    if not line.is_over:
        arrays = _Arrays(store, resources, perform)
        try:
            while not line.is_over:
                arrays.submit(_ready(line))
                watch(line.status)
                time.sleep(SECONDS_BETWEEN_LOOKS)
                arrays.land(line)
        except BaseException:
            arrays.cancel()
            raise
    watch(line.status)
    return line.status


def _ready(line: Line) -> list[PlannedRun]:
    ready: list[PlannedRun] = []
    while run := line.start_next(_UNLIMITED):
        ready.append(run)
    return ready


@dataclass
class _Array:
    """One submitted array: element i performs runs i, i + elements, ... of it."""

    folder: Path
    job: str
    elements: int
    runs: list[PlannedRun]
    open: dict[str, int] = field(default_factory=dict[str, int])
    gone: set[int] = field(default_factory=set[int])

    def __post_init__(self) -> None:
        self.open = {run.run_id: index % self.elements for index, run in enumerate(self.runs)}


class _Arrays:
    """Everything submitted by this driver."""

    def __init__(self, store: Store, resources: Resources, perform: Perform) -> None:
        gpus = resources.gpus_per_run
        if gpus is None or not float(gpus).is_integer():
            raise ConfigError(
                f"the executor slurm needs --gpus-per-run as a whole number, got {gpus}. Use 1, or 0 for the CPU."
            )
        self.gpus = int(gpus)
        self.root = store.root.resolve()
        self.resources = resources
        self.perform = perform
        self.arrays: list[_Array] = []
        self.submitted = 0
        self.asked = time.monotonic()

    def submit(self, runs: list[PlannedRun]) -> None:
        """One array for the runs of each world size.

        Raises:
            ConfigError: There is no sbatch, or it refuses.
        """
        for size in sorted({world_size(run) for run in runs}):
            alike = [run for run in runs if world_size(run) == size]
            folder = self.root / "slurm" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{self.submitted}"
            self.submitted += 1
            elements = min(len(alike), MOST_ELEMENTS)
            script = self._write(folder, alike, elements, size)
            self.arrays.append(_Array(folder, self._sbatch(script, len(alike)), elements, alike))

    def _write(self, folder: Path, runs: list[PlannedRun], elements: int, size: int) -> Path:
        function = f"{self.perform.__module__}:{getattr(self.perform, '__qualname__', '')}"
        job = {"root": str(self.root), "perform": function, "elements": elements, "threads": self.resources.threads}
        job |= {"gpus": self.gpus, "runs": [asdict(run) for run in runs]}
        (folder / "ended").mkdir(parents=True, exist_ok=True)
        write_json(folder / "runs.json", job)
        text = array_script(
            folder, elements=elements, processes=size, resources=self.resources, folder_of_driver=Path.cwd()
        )
        write_bytes(folder / "array.sh", text.encode())
        return folder / "array.sh"

    def _sbatch(self, script: Path, number: int) -> str:
        if shutil.which("sbatch") is None:
            raise ConfigError(
                f"the executor slurm needs sbatch, got a machine without it. The script of {number} runs is written: "
                f"submit it where there is one, `sbatch {shlex.quote(str(script))}`, and follow it with "
                "`neftune study status`; started again once they are done, the study goes on from their results."
            )
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
        job = done.stdout.strip().split(";")[0]
        if done.returncode or not job:
            raise ConfigError(
                f"sbatch must take the script {script}, got: {done.stderr.strip() or done.stdout.strip()}. "
                "Change the --slurm-... options."
            )
        write_json(script.parent / "job.json", {"job": job})
        return job

    def land(self, line: Line) -> None:
        """Tell the line of runs that ended, and of those whose job is gone without an end."""
        for array in self.arrays:
            for path in (array.folder / "ended").iterdir():
                if array.open.pop(path.stem, None) is not None:
                    failure = read_json(path)
                    run = line.status.running[path.stem]
                    line.end(run, Failure(**failure) if failure else None)
        if time.monotonic() - self.asked > SECONDS_BETWEEN_QUESTIONS:
            self.asked = time.monotonic()
            for array in self.arrays:
                self._bury(line, array)
        self.arrays = [array for array in self.arrays if array.open]

    def _bury(self, line: Line, array: _Array) -> None:
        """Give back the runs of elements that Slurm has not known for two questions."""
        alive = alive_elements(array.job)
        if alive is None:
            return
        gone = set(array.open.values()) - alive
        for element in gone & array.gone:
            left = [run_id for run_id, one in array.open.items() if one == element]
            for position, run_id in enumerate(left):
                del array.open[run_id]
                run = line.status.running[run_id]
                # An element performs its runs in turn: the first without an end is the one that it died of.
                line.worker_died(run, _HINT) if position == 0 else line.node_lost(run)
        array.gone = gone

    def cancel(self) -> None:
        """End what is queued and running; an unfinished run goes on from its checkpoints at the next start."""
        if jobs := [array.job for array in self.arrays]:
            subprocess.run(["scancel", *jobs], capture_output=True, check=False)


def array_script(folder: Path, *, elements: int, processes: int, resources: Resources, folder_of_driver: Path) -> str:
    """The batch script of an array.

    Args:
        folder: Where the array's files lie.
        elements: How many elements it has.
        processes: Processes of each run, all on one node.
        resources: What a process takes, how many elements run at a time, and the options of sbatch.
        folder_of_driver: Where relative paths of the recipe start.
    """
    slurm = resources.slurm or SlurmOptions()
    options = {
        "job-name": "neftune",
        "array": f"0-{elements - 1}" + (f"%{resources.workers}" if resources.workers else ""),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(processes * resources.threads),
        "gres": f"gpu:{processes * int(resources.gpus_per_run)}" if resources.gpus_per_run else None,
        "partition": slurm.partition,
        "time": slurm.time,
        "mem": slurm.memory,
        "output": f'"{folder}/log-%a.txt"',
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in slurm.options)]
    command = f"{shlex.quote(sys.executable)} -m neftune.study.executors.slurm_element {shlex.quote(str(folder))}"
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            *slurm.setup,
            f"cd {shlex.quote(str(folder_of_driver))} || exit 1",
            f'exec {command} "$SLURM_ARRAY_TASK_ID"',
            "",
        ]
    )


def alive_elements(job: str) -> set[int] | None:
    """Elements of a job that wait or run; None where Slurm does not answer."""
    question = ["squeue", "--noheader", "--array", "--jobs", job, "--format", "%K"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return set() if "Invalid job id" in answer.stderr else None
    return {int(word) for word in answer.stdout.split() if word.isdigit()}
