"""One rank of a run: trains with the others; the first one then evaluates, alone, and writes the record.

python -m neftune.study.rank FOLDER            started by torchrun, see `neftune.study.launch`
"""

import datetime
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neftune.study.agent import PARENT
from neftune.study.lifeline import end_with
from neftune.study.nodes import STORE

JOB, PROGRESS, RECORD, ERROR = "job.json", "progress.json", "record.json", "rank-{rank}.error.json"

_LONGEST_WAIT = datetime.timedelta(hours=6)
"""For a rank that works while the others wait, as the first one does when it measures; a dead one ends all at once."""

_SECONDS_BETWEEN_REPORTS = 0.2
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


def main(folder: Path) -> None:
    """Do this rank's part of the run whose job lies in ``folder``; on an error say it there and end."""
    end_with(int(os.environ[PARENT]))
    rank = int(os.environ["RANK"])
    import filelock

    from neftune.study.store import write_json

    try:
        # Ranks of a start that was killed may live on for a moment; they hold their locks for as long.
        with filelock.FileLock(folder / f"rank-{rank}.lock"):
            _perform(folder)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        write_json(folder / ERROR.format(rank=rank), {"error": type(error).__name__, "message": str(error)})
        # Not by the usual way out, which waits for the other ranks.
        os._exit(1)


def _perform(folder: Path) -> None:
    import torch

    from neftune.config import RunConfig
    from neftune.study.run import evaluated, train_run, training_record
    from neftune.study.store import read_json, write_json

    with _together() as is_first:
        torch.set_num_threads((job := read_json(folder / JOB))["threads"])
        report = _reporter(folder / PROGRESS) if is_first else _silent
        config, run_folder = RunConfig.model_validate(job["config"]), folder.parent
        trained = train_run(config, run_folder, stop_at_clean_train_loss=job["stop_at_clean_train_loss"], report=report)
    if not is_first:
        return
    record = training_record(job["run_id"], config, trained)
    if job["evaluate"]:
        record = evaluated(record, trained.loaded, trained.data, config, cache=run_folder / "benchmarks", report=report)
    write_json(folder / RECORD, asdict(record))


@contextmanager
def _together() -> Generator[bool]:
    """In a process group with the other ranks; afterwards in none, with nothing left that looks like one."""
    import torch.distributed as dist
    from accelerate.state import AcceleratorState  # pyright: ignore[reportMissingTypeStubs]

    rank, world, store = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ.get(STORE)
    backend = _backend(int(os.environ["LOCAL_RANK"]))
    place = f"file://{store}" if store else "env://"
    dist.init_process_group(backend, init_method=place, timeout=_LONGEST_WAIT, rank=rank, world_size=world)
    yield rank == 0
    # Or some ranks die on their way out, having lost the first one.
    dist.barrier()  # pyright: ignore[reportUnknownMemberType]
    dist.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    for name in list(os.environ):
        if name.startswith(_OF_LAUNCHERS):
            del os.environ[name]


def _backend(local_rank: int) -> str:
    """The means by which ranks talk: gloo on the CPU, and NCCL where every rank has a GPU, which it takes here.

    Raises:
        ConfigError: There are GPUs, but not one for each rank.
    """
    import torch

    from neftune.errors import ConfigError

    if not torch.cuda.is_available():
        return "gloo"
    needed, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if found < needed:
        raise ConfigError(
            f"every rank needs a GPU of its own, got {needed} ranks and {found} visible GPUs on this machine. Lower "
            '--train.world_size, or hide the GPUs (CUDA_VISIBLE_DEVICES="") to train on the CPU.'
        )
    torch.cuda.set_device(local_rank)
    return "cpu:gloo,cuda:nccl"


def _silent(values: Mapping[str, Any]) -> None:
    """What ranks but the first report."""


def _reporter(path: Path) -> Callable[[Mapping[str, Any]], None]:
    """Where the run stands, for the process that started the ranks, at most five times a second."""
    from neftune.study.store import write_json

    last = 0.0

    def report(values: Mapping[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS or "step" not in values:
            last = time.monotonic()
            write_json(path, values, durable=False)

    return report


if __name__ == "__main__":
    main(Path(sys.argv[1]))
