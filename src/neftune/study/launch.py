"""A run of several processes: torchrun starts them, the first one writes the record, and none outlives the run.

RUN FOLDER/ranks/   job.json  progress.json  record.json  rank-N.lock  rank-N.error.json  died-MACHINE.json
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neftune import errors
from neftune.config import RunConfig
from neftune.errors import NeftuneError, StoreError, WorkError
from neftune.records import RunRecord
from neftune.study.agent import DIED
from neftune.study.nodes import Nodes, rendezvous
from neftune.study.rank import ERROR, JOB, PROGRESS, RECORD
from neftune.study.run import Report, run_one, train_run, training_record
from neftune.study.store import read_json, read_record, write_json

RANKS = "ranks"
"""Folder within the run's where its ranks leave what they have to say."""

ATTEMPTS = 2
"""How often the ranks of a run on one machine are started when one of them is killed."""

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 10


class RankDiedError(WorkError):
    """A rank of a run was killed."""


class RankFailedError(WorkError):
    """A rank of a run raised an error that nobody foresaw."""


def perform_run(
    run_id: str,
    config: RunConfig,
    folder: Path,
    *,
    stop_at_clean_train_loss: float | None = None,
    evaluate: bool = True,
    report: Report = lambda _: None,
) -> RunRecord:
    """Train, evaluate and record one run: in this process, or on as many ranks as `train.world_size` says.

    Args:
        run_id: The run's.
        config: What determines it.
        folder: Its folder.
        stop_at_clean_train_loss: As `train_run` takes it.
        evaluate: Whether to ask the trained model; else the record is that of the training.
        report: Told where the run stands.

    Raises:
        NeftuneError: Whatever the run raises, in this process or in a rank.
        RankDiedError, RankFailedError: A rank was killed, or failed in a way that nobody foresaw.
    """
    if config.train.world_size > 1:
        job = {
            "run_id": run_id,
            "config": config.model_dump(mode="json"),
            "stop_at_clean_train_loss": stop_at_clean_train_loss,
            "evaluate": evaluate,
            "threads": _num_threads(),
        }
        return _on_ranks(job, config, folder, report)
    if evaluate:
        return run_one(run_id, config, folder, stop_at_clean_train_loss=stop_at_clean_train_loss, report=report)
    trained = train_run(config, folder, stop_at_clean_train_loss=stop_at_clean_train_loss, report=report)
    return training_record(run_id, config, trained)


def assist(config: RunConfig, folder: Path, nodes: Nodes) -> None:
    """Start this machine's ranks of a run that machine 0 performs, and return when they have ended.

    Args:
        config: What determines the run.
        folder: The run's folder, which all machines share.
        nodes: This machine among them.

    Raises:
        NeftuneError: As `perform_run`.
    """
    _start(config, folder, nodes, lambda _: None)


def _on_ranks(job: Mapping[str, Any], config: RunConfig, folder: Path, report: Report) -> RunRecord:
    ranks = folder / RANKS
    write_json(ranks / JOB, job)
    for stale in (RECORD, PROGRESS):
        (ranks / stale).unlink(missing_ok=True)
    _start(config, folder, Nodes.from_environment(), report)
    record = read_record(ranks / RECORD)
    shutil.rmtree(ranks, ignore_errors=True)
    return record


def _start(config: RunConfig, folder: Path, nodes: Nodes, report: Report) -> None:
    """Run this machine's ranks to their end; what a rank raised is raised here."""
    _prepare_base(config)
    share = nodes.share(config.train.world_size)
    (folder / RANKS).mkdir(parents=True, exist_ok=True)  # a machine that assists may come first
    for attempt in range(1, ATTEMPTS + 1):
        for stale in [*(folder / RANKS).glob(ERROR.format(rank="*")), folder / RANKS / DIED.format(index=nodes.index)]:
            stale.unlink(missing_ok=True)
        with rendezvous(nodes) as (options, environment):
            code = _torchrun([*options, "--nproc-per-node", str(share)], environment, folder, nodes, report)
        if code == 0:
            return
        error = _error(folder, config.train.world_size, nodes, code)
        if not isinstance(error, RankDiedError) or attempt == ATTEMPTS or nodes.count > 1:
            # Other machines know nothing of another start here: this one would wait for them for ever.
            raise error
        _log(folder, f"{error} Starting its ranks again.")


def _torchrun(options: list[str], environment: Mapping[str, str], folder: Path, nodes: Nodes, report: Report) -> int:
    """The exit code of torchrun, once it and all of its ranks have ended."""
    command = [sys.executable, "-m", "neftune.study.agent", str(os.getpid()), str(folder / RANKS), str(nodes.index)]
    with (folder / "log.txt").open("ab") as log:
        agent = subprocess.Popen(
            [*command, *options], env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    seen = 0
    progress = folder / RANKS / PROGRESS
    try:
        while agent.poll() is None:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            with contextlib.suppress(OSError):
                changed = progress.stat().st_mtime_ns
                if changed != seen:
                    seen = changed
                    report(read_json(progress))
    finally:
        _end(agent)
    return agent.returncode


def _end(agent: "subprocess.Popen[bytes]") -> None:
    """Leave no agent; a rank that outlives its agent ends itself."""
    if agent.poll() is not None:
        return
    agent.terminate()
    try:
        agent.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()


def _error(folder: Path, world: int, nodes: Nodes, code: int) -> NeftuneError:
    """Why the ranks ended before their time. What was killed comes first: the others' errors follow from it."""
    ranks, log = folder / RANKS, folder / "log.txt"
    if code < 0:
        return RankDiedError(
            f"all {world} ranks of a run must live until it ends, torchrun was killed ({signal.Signals(-code).name}) "
            f"and they with it. See {log}."
        )
    died: dict[str, int] = {}
    with contextlib.suppress(StoreError):
        died = read_json(ranks / DIED.format(index=nodes.index))
    for rank, code in sorted(died.items()):
        # torchrun itself ends the others with SIGTERM.
        if code < 0 and (code != -signal.SIGTERM or len(died) == 1):
            return RankDiedError(
                f"all {world} ranks of a run must live until it ends, rank {rank} was killed "
                f"({signal.Signals(-code).name}; out of memory?). See {log}, or lower --train.micro_batch_size."
            )
    said = {path.name: read_json(path) for path in sorted(ranks.glob(ERROR.format(rank="*")))}
    for one in said.values():
        known = getattr(errors, one["error"], None)
        if isinstance(known, type) and issubclass(known, NeftuneError):
            return known(one["message"])
    for name, one in said.items():
        first = one["message"].strip().splitlines() or ["no message"]
        return RankFailedError(f"{name.split('.')[0]} of {world} failed with {one['error']}: {first[0]} (see {log})")
    return RankDiedError(f"all {world} ranks of a run must live until it ends, they ended without a word. See {log}.")


def _log(folder: Path, line: str) -> None:
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")


def _prepare_base(config: RunConfig) -> None:
    """The microworld's base is pretrained by one process, which ranks are not."""
    if config.model.path == "microworld":
        from neftune.training.pretrain import microworld_base

        microworld_base(config.data.seed)


def _num_threads() -> int:
    import torch

    return torch.get_num_threads()
