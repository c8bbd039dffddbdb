"""Checkpoints that are whole or ignored.

The trainer writes a checkpoint file by file; a kill in between leaves half of one. The last thing written, in one
atomic step, is a seal: the run's own state beside the name and size of every file. No valid seal, no checkpoint.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neftune.errors import StoreError

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints within the run's."""

SEAL = "neftune_seal.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        folder: What the trainer resumes from.
        state: What `seal` was given.
    """

    folder: Path
    state: Mapping[str, Any]


@contextlib.contextmanager
def checkpoint_folder(run_folder: Path) -> Iterator[Path]:
    """The folder for a run's checkpoints; it vanishes with the context if none was kept.

    Args:
        run_folder: The run's folder, created where missing.

    Raises:
        StoreError: The folder cannot be written to.
    """
    folder = run_folder / CHECKPOINTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"a run needs a folder it can write to, got {run_folder} ({error.strerror}). Choose another output folder."
        ) from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def seal(folder: Path, *, run: str, state: Mapping[str, Any]) -> None:
    """Declares the checkpoint in ``folder`` whole.

    Args:
        folder: The trainer has finished writing it.
        run: Identifies the run; only the same run resumes from it.
        state: JSON-serialisable state beyond the trainer's own.
    """
    text = json.dumps({"run": run, "files": _file_sizes(folder), "state": state})
    draft = folder / f"{SEAL}.draft"
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / SEAL)


def last_checkpoint(folder: Path, *, run: str) -> Checkpoint | None:
    """The latest whole checkpoint under ``folder``; broken ones are removed.

    Args:
        folder: Where checkpoints are kept; may be missing.
        run: As given to `seal`.

    Raises:
        StoreError: The folder holds a checkpoint of another run.
    """
    latest: Checkpoint | None = None
    for candidate in sorted(folder.glob("checkpoint-*"), key=_step):
        found = _read(candidate)
        if found is None:
            shutil.rmtree(candidate)
            continue
        if found["run"] != run:
            raise StoreError(
                f"a run must resume from its own checkpoints; {candidate} was written with other settings, "
                "data or starting weights. Remove the folder, or train in another one."
            )
        latest = Checkpoint(candidate, found["state"])
    return latest


def remove_checkpoints(folder: Path) -> None:
    """Deletes the checkpoints of the run in ``folder``, once its result is stored."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _read(folder: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((folder / SEAL).read_text())
    except (OSError, ValueError):
        return None
    return found if found["files"] == _file_sizes(folder) else None


def _file_sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(SEAL))
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _step(folder: Path) -> int:
    digits = folder.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1
