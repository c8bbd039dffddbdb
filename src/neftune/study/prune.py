"""What a folder of runs holds that nothing needs, and its removal.

A run is never touched while a process holds it, and a study that is named takes with it only runs that no other needs.
"""

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neftune.errors import ConfigError
from neftune.study.plans import EARLIER, planned_ids
from neftune.study.store import Store

_NAMED = "study that was named"
_EARLIER = "earlier plan"
_UNPLANNED = "run that no study plans"

_SECONDS_A_WRITE_TAKES = 3600
"""A half-written file of a study that is younger may be one that is being written."""

_RESULT = "result.json"

_HALF_WRITTEN = re.compile(r"\.[\w.-]+\.(json|html|yaml)\.[a-z0-9_]{8}")
"""What `files.write_bytes` was killed over: .result.json.k2f9x1_a."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is removed beside unplanned runs, checkpoints of finished ones and half-written files.

    Attributes:
        failed: Folders of runs whose last attempt failed.
        unfinished: Folders of runs that have neither a result nor an error.
        weights: Saved weights of finished runs.
        earlier_plans: Plans that a later one has replaced, and the runs that they alone name.
        studies: Whole studies by name, and the runs that they alone name.
    """

    failed: bool = False
    unfinished: bool = False
    weights: bool = False
    earlier_plans: bool = False
    studies: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that can go.

    Attributes:
        path: A file or folder.
        why: In a few words.
        num_bytes: What it takes on the disk.
        run_id: The run that must not be held meanwhile; "" for a study's file.
        done: Whether that run had its result.
    """

    path: Path
    why: str
    num_bytes: int
    run_id: str = ""
    done: bool = False


def removals(store: Store, wanted: Wanted) -> tuple[Removal, ...]:
    """All that can go, runs first; nothing is removed yet.

    Raises:
        ConfigError: A study that is named does not exist.
        StoreError: A plan cannot be read, so nobody knows which runs it needs.
    """
    known = store.studies()
    for name in wanted.studies:
        if name not in known:
            raise ConfigError(f"{store.root} must hold the study {name!r}; it holds {', '.join(known) or 'none'}.")
    needed = _Needed(store, without=wanted.studies, earlier=not wanted.earlier_plans).now()
    found = [one for run_id in store.runs() for one in _of_run(store, run_id, wanted, is_needed=run_id in needed)]
    return (*found, *_of_studies(store, wanted))


def remove(store: Store, found: Sequence[Removal]) -> tuple[tuple[Removal, ...], tuple[Removal, ...]]:
    """Remove what was found; gives what went, and what was left because a process works on it.

    A study that was named stays while a run that would go with it is being worked on. A run that a study has planned
    since it was found stays too.

    Args:
        store: Where it was found.
        found: As `removals` gave it, runs first.

    Raises:
        OSError: A file cannot be removed.
    """
    gone: list[Removal] = []
    left: list[Removal] = []
    named = [one.path.name for one in found if one.why == _NAMED]
    needed = _Needed(store, without=named, earlier=all(one.why != _EARLIER for one in found))
    for one in found:
        if not one.run_id and not (left and one.why == _NAMED):
            _delete(one.path)
            gone.append(one)
        elif not one.run_id:
            left.append(one)
        else:
            with store.claim_if_free(one.run_id) as held:
                idle = held and store.is_done(one.run_id) == one.done
                idle = idle and not (one.why == _UNPLANNED and one.run_id in needed.now())
                (gone if idle else left).append(one)
                if idle:
                    _delete(one.path)
    return tuple(gone), tuple(left)


@dataclass
class _Needed:
    """Ids of the runs that studies plan, read again when a plan has changed."""

    store: Store
    without: Sequence[str]
    earlier: bool
    _seen: tuple[tuple[Path, int], ...] | None = None
    _ids: frozenset[str] = frozenset()

    def now(self) -> frozenset[str]:
        kept = [self.store.study_folder(name) for name in self.store.studies() if name not in self.without]
        paths = sorted(path for folder in kept for path in folder.glob("*plan*.json"))
        seen = tuple((path, path.stat().st_mtime_ns) for path in paths)
        if seen != self._seen:
            self._ids = frozenset(one for folder in kept for one in planned_ids(folder, earlier=self.earlier))
            self._seen = seen
        return self._ids


def _of_run(store: Store, run_id: str, wanted: Wanted, *, is_needed: bool) -> Iterator[Removal]:
    folder = store.run_folder(run_id)
    done = store.is_done(run_id)
    why = _why_whole(store, run_id, wanted, is_needed=is_needed, done=done)
    if why:
        yield _removal(folder, why, run_id, done=done)
        return
    if done:
        for name, reason in (("checkpoints", "checkpoints of a finished run"), ("model", "saved weights")):
            if (folder / name).is_dir() and (name == "checkpoints" or wanted.weights):
                yield _removal(folder / name, reason, run_id, done=done)
    for path in _half_written(folder):
        yield _removal(path, "half-written file", run_id, done=done)


def _why_whole(store: Store, run_id: str, wanted: Wanted, *, is_needed: bool, done: bool) -> str:
    """Why a run's whole folder can go; "" where it cannot."""
    if not is_needed:
        return _UNPLANNED
    failed = store.has_failed(run_id)
    if wanted.failed and failed and not done:
        return "failed run"
    if wanted.unfinished and not failed and not done:
        return "unfinished run"
    return ""


def _of_studies(store: Store, wanted: Wanted) -> Iterator[Removal]:
    for folder in sorted(path for path in (store.root / "studies").glob("*") if path.is_dir()):
        if folder.name in wanted.studies:
            yield _removal(folder, _NAMED)
            continue
        for path in sorted(folder.glob(EARLIER)) if wanted.earlier_plans else ():
            yield _removal(path, _EARLIER)
        for path in _half_written(folder):
            if time.time() - path.stat().st_mtime > _SECONDS_A_WRITE_TAKES:
                yield _removal(path, "half-written file")


def _half_written(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(".*") if _HALF_WRITTEN.fullmatch(path.name))


def _removal(path: Path, why: str, run_id: str = "", *, done: bool = False) -> Removal:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return Removal(path, why, sum(one.stat().st_size for one in files), run_id, done)


def _delete(path: Path) -> None:
    """Remove a file, or a folder with its result first and its lock last: half a removal leaves no half a run."""
    if path.is_file():
        path.unlink(missing_ok=True)
        return
    (path / _RESULT).unlink(missing_ok=True)
    for one in path.iterdir() if path.is_dir() else ():
        if one.name != "claim.lock":
            shutil.rmtree(one) if one.is_dir() else one.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
