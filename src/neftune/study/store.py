"""Run folders on disk: a result appears atomically and last, and a run is claimed by one process.

ROOT/runs/<run id>/   config.json  progress.json  checkpoints/  model/  result.json | failure.json
ROOT/studies/<name>/  recipe.yaml  plan.json  report.html  summary.json
"""

import json
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import filelock

from neftune.errors import ConfigError, StoreError
from neftune.records import (
    Answer,
    Failure,
    HistoryPoint,
    PlannedRun,
    RealisedNoise,
    RunRecord,
    Scores,
    Stage,
    StudyResult,
)

_UMASK = os.umask(0o022)
os.umask(_UMASK)


class Store:
    """The folder that holds all runs and studies.

    Args:
        root: The folder; made where it does not exist.

    Raises:
        ConfigError: The folder cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            (root / "runs").mkdir(parents=True, exist_ok=True)
            (root / "studies").mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=root / "runs"):
                pass
        except OSError as error:
            raise ConfigError(
                f"the output folder must be writable, got {root}: {error.strerror}. Name another one with --out."
            ) from error

    def run_folder(self, run_id: str) -> Path:
        """Where a run's files lie."""
        return self.root / "runs" / run_id

    def study_folder(self, name: str) -> Path:
        """Where a study's files lie."""
        return self.root / "studies" / name

    def is_done(self, run_id: str) -> bool:
        """Whether a run has its result."""
        return (self.run_folder(run_id) / "result.json").is_file()

    @contextmanager
    def claim(self, run_id: str) -> Generator[None]:
        """Hold a run for this process; waits while another one holds it, and is released if that one dies."""
        folder = self.run_folder(run_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"a run needs its folder {folder}: {error.strerror}.") from error
        with filelock.FileLock(folder / "claim.lock"):
            yield

    def write_result(self, record: RunRecord) -> None:
        """Store a finished run; it is there whole or not at all."""
        folder = self.run_folder(record.run_id)
        write_json(folder / "result.json", asdict(record))
        (folder / "failure.json").unlink(missing_ok=True)

    def read_result(self, run_id: str) -> RunRecord:
        """A finished run.

        Raises:
            StoreError: There is no result, or it is not one.
        """
        return read_record(self.run_folder(run_id) / "result.json")

    def write_failure(self, failure: Failure) -> None:
        """Say why a run did not finish; the next start tries it again."""
        write_json(self.run_folder(failure.run_id) / "failure.json", asdict(failure))

    def write_progress(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Where a run stands, for whoever watches."""
        write_json(self.run_folder(run_id) / "progress.json", values, durable=False)

    def read_progress(self, run_id: str) -> dict[str, Any]:
        """Where a run stands; empty where nothing is known."""
        try:
            return json.loads((self.run_folder(run_id) / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def write_study(
        self,
        name: str,
        recipe: Mapping[str, Any],
        planned: Sequence[PlannedRun],
        *,
        to_come: Sequence[Stage] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """Store a study's plan as far as it is known.

        Args:
            name: The study's.
            recipe: Its resolved recipe.
            planned: The runs that are known.
            to_come: Stages that wait for results.
            notes: What a reader of the results must know.
        """
        plan = {
            "recipe": recipe,
            "planned": [asdict(run) for run in planned],
            "to_come": list(to_come),
            "notes": list(notes),
        }
        write_json(self.study_folder(name) / "plan.json", plan)

    def read_study(self, name: str) -> StudyResult:
        """A study as far as it has come.

        Raises:
            ConfigError: There is no such study.
        """
        path = self.study_folder(name) / "plan.json"
        if not path.is_file():
            known = sorted(one.name for one in (self.root / "studies").iterdir() if (one / "plan.json").is_file())
            raise ConfigError(f"{self.root} must hold the study {name!r}; it holds {', '.join(known) or 'none'}.")
        plan = read_json(path)
        result = self.result(plan["recipe"], tuple(PlannedRun(**run) for run in plan["planned"]))
        return replace(result, to_come=tuple(plan.get("to_come", ())), notes=tuple(plan.get("notes", ())))

    def result(self, recipe: Mapping[str, Any], planned: tuple[PlannedRun, ...]) -> StudyResult:
        """What is stored of the planned runs: done, failed, or neither."""
        done = {run.run_id: self.read_result(run.run_id) for run in planned if self.is_done(run.run_id)}
        failed = {
            run.run_id: Failure(**read_json(self.run_folder(run.run_id) / "failure.json"))
            for run in planned
            if run.run_id not in done and (self.run_folder(run.run_id) / "failure.json").is_file()
        }
        return StudyResult(recipe, planned, done, failed)


def read_record(path: Path) -> RunRecord:
    """A run's result from its file.

    Raises:
        StoreError: There is none, or it is not one.
    """
    values = read_json(path)
    try:
        return run_record(values)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} must hold a run's result, got one without {error}. Delete it to run again."
        ) from error


def run_record(values: Mapping[str, Any]) -> RunRecord:
    """A run's result from plain data, as `dataclasses.asdict` gave it."""
    return RunRecord(
        run_id=values["run_id"],
        config=values["config"],
        history=tuple(HistoryPoint(**point) for point in values["history"]),
        noise=RealisedNoise(**values["noise"]) if values["noise"] else None,
        alpha=values["alpha"],
        counts=values["counts"],
        answers={part: tuple(Answer(**one) for one in answers) for part, answers in values["answers"].items()},
        scores={
            part: Scores(
                tuple(scores["example_ids"]),
                {name: tuple(_nan(one) for one in numbers) for name, numbers in scores["values"].items()},
            )
            for part, scores in values["scores"].items()
        },
        versions=values["versions"],
        seconds=values["seconds"],
        data_fingerprint=values["data_fingerprint"],
        tags=values["tags"],
    )


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, never a part.

    Args:
        path: The file.
        value: Plain data; NaN becomes null.
        durable: Also survive a power cut (fsync).

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(_finite(value), file, ensure_ascii=False, allow_nan=False)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_UMASK)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"{path} could not be written: {error.strerror}. Free some space or choose another --out."
        ) from error


def read_json(path: Path) -> Any:
    """JSON from a file.

    Raises:
        StoreError: The file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} could not be read: {error.strerror}.") from error
    except ValueError as error:
        raise StoreError(f"{path} must be JSON: {error}. Delete it to run again.") from error


def _finite(value: object) -> Any:
    """Plain data with NaN and infinities as null."""
    if isinstance(value, float):
        return value if value == value and value not in (float("inf"), float("-inf")) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in cast(Sequence[object], value)]
    return value


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
