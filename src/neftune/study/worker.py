"""What a worker process does with one planned run: claim it, do it, store its result or why it failed."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neftune.config import RunConfig
from neftune.errors import NeftuneError, StoreError
from neftune.records import Failure, PlannedRun
from neftune.study.lifeline import end_with
from neftune.study.store import Store

_SECONDS_BETWEEN_REPORTS = 0.5
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def perform(root: Path, planned: PlannedRun) -> Failure | None:
    """Do one run unless its result is there already; returns why it failed, or None.

    A run that another process holds is waited for, and then found done. An error of ours becomes a failure with its
    message; any other error too, with its traceback in the run's log.
    """
    store = Store(root)
    try:
        with store.claim(planned.run_id):
            if store.is_done(planned.run_id):
                return None
            with _output_to(store.run_folder(planned.run_id) / "log.txt"):
                return _attempt(store, planned)
    except NeftuneError as error:
        return Failure(planned.run_id, type(error).__name__, str(error))
    except OSError as error:
        folder = store.run_folder(planned.run_id)
        return Failure(planned.run_id, "StoreError", f"{folder} could not be written: {error.strerror}.")


def perform_on(
    devices: str, perform: Callable[[Path, PlannedRun], Failure | None], root: Path, planned: PlannedRun
) -> Failure | None:
    """Do one run with these GPUs visible to the processes that it starts."""
    before = os.environ[_VISIBLE]
    os.environ[_VISIBLE] = devices
    try:
        return perform(root, planned)
    finally:
        os.environ[_VISIBLE] = before


def start_worker(threads: int, driver: int, devices: str) -> None:
    """Prepare a worker process as `prepare_process` does, and end it when the driver's end comes.

    Args:
        threads: CPU threads a run computes with.
        driver: Process id of the driver, which may be gone by the time a worker has started.
        devices: The GPUs it may use.
    """
    end_with(driver)
    prepare_process(threads, devices)


def prepare_process(threads: int, devices: str | None) -> None:
    """Set a process's threads and GPUs, before torch is imported.

    Args:
        threads: CPU threads a run computes with; results are bit-identical for equal numbers.
        devices: The GPUs it may use, as CUDA_VISIBLE_DEVICES names them; "" none, None those that it has.
    """
    if devices is not None:
        os.environ[_VISIBLE] = devices
    for name in _THREADS:
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _use_threads() -> None:
    """Let torch, imported only now, use the threads that the process was prepared with."""
    import torch

    if number := os.environ.get(_THREADS[0]):
        torch.set_num_threads(int(number))


def _attempt(store: Store, planned: PlannedRun) -> Failure | None:
    from neftune.study.launch import perform_run
    from neftune.study.run import check_unchanged, final_clean_train_loss
    from neftune.training.checkpoints import remove_checkpoints

    folder = store.run_folder(planned.run_id)
    started = time.time()
    last = 0.0

    def report(values: Mapping[str, Any]) -> None:
        nonlocal last
        if time.time() - last > _SECONDS_BETWEEN_REPORTS or "step" not in values:
            last = time.time()
            store.write_progress(planned.run_id, {**values, "started": started, "at": last})

    try:
        report({"stage": "starting"})
        _use_threads()
        config = RunConfig.model_validate(planned.config)
        check_unchanged(planned.run_id, config)
        matched = store.read_result(planned.after) if planned.after else None
        record = perform_run(
            planned.run_id,
            config,
            folder,
            stop_at_clean_train_loss=final_clean_train_loss(matched.history) if matched else None,
            report=report,
        )
        store.write_result(record)
        remove_checkpoints(folder)
        report({"stage": "done"})
        return None
    except Exception as error:
        traceback.print_exc()
        failure = Failure(planned.run_id, type(error).__name__, _message(error, folder))
        if not isinstance(error, StoreError):
            store.write_failure(failure)
        return failure


def _message(error: Exception, folder: Path) -> str:
    if isinstance(error, NeftuneError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or folder}."
    first = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {first[0]} (traceback in {folder / 'log.txt'})"


@contextmanager
def _output_to(path: Path) -> Generator[None]:
    """Send what libraries print to the run's log, so that the terminal shows progress only."""
    try:
        log = path.open("a", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror}. Choose another --out.") from error
    with log:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
