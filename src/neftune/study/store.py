"""Run folders on disk: a result appears atomically and last, and a run is claimed by one process.

ROOT/runs/<run id>/   claim.lock  progress.json  log.txt  checkpoints/  model/  result.json | failure.json
ROOT/studies/<name>/  plan.lock  recipe.yaml  plan.json  plan-<hash>.json (earlier ones)  report.html  summary.json
"""

import json
import tempfile
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
from neftune.study.files import is_whole_json, read_json, write_json
from neftune.study.plans import PLAN, Plan, read_plan, write_plan


class Store:
    """The folder that holds all runs and studies.

    Args:
        root: The folder; made where it does not exist.
        read_only: Whether it is only looked at: it need not be writable, nor exist.

    Raises:
        ConfigError: The folder cannot be made or written.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.root = root
        if read_only:
            return
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
        """Whether a run has its whole result; one cut short by a power cut is none."""
        return is_whole_json(self.run_folder(run_id) / "result.json")

    def has_failed(self, run_id: str) -> bool:
        """Whether a run's last attempt failed; it may be running again."""
        return (self.run_folder(run_id) / "failure.json").is_file()

    def studies(self) -> list[str]:
        """Names of the studies, sorted."""
        return sorted(path.parent.name for path in (self.root / "studies").glob(f"*/{PLAN}"))

    def runs(self) -> list[str]:
        """Ids of all run folders, sorted."""
        folder = self.root / "runs"
        return sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []

    @contextmanager
    def claim(self, run_id: str) -> Generator[None]:
        """Hold a run for this process; waits while another one holds it, and is released if that one dies.

        Raises:
            StoreError: The folder cannot be made, or its file system has no locks.
        """
        with self._locked(self.run_folder(run_id) / "claim.lock", wait=True):
            yield

    @contextmanager
    def claim_if_free(self, run_id: str) -> Generator[bool]:
        """Hold a run for this process unless another one holds it; gives whether it is held here."""
        with self._locked(self.run_folder(run_id) / "claim.lock", wait=False) as held:
            yield held

    @contextmanager
    def _locked(self, path: Path, *, wait: bool) -> Generator[bool]:
        """Hold a lock that the system takes back when its holder dies, however it dies."""
        lock = filelock.FileLock(path, timeout=-1 if wait else 0)
        try:
            _acquire(lock, path)
        except filelock.Timeout:
            yield False
            return
        except OSError as error:
            raise StoreError(f"a run needs its folder {path.parent}: {error.strerror}.") from error
        try:
            yield True
        finally:
            lock.release()

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
        path = self.run_folder(run_id) / "result.json"
        record = read_record(path)
        if record.run_id != run_id:
            raise StoreError(
                f"{path} must hold the result of run {run_id}, got that of {record.run_id}. Delete it to run again."
            )
        return record

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
        """Store a study's plan as far as it is known; an earlier one that it does not contain is kept beside it.

        Args:
            name: The study's.
            recipe: Its resolved recipe.
            planned: The runs that are known.
            to_come: Stages that wait for results.
            notes: What a reader of the results must know.

        Raises:
            ConfigError: There is a study of this name with other settings, of which runs are finished.
            StoreError: The plan cannot be written.
        """
        folder = self.study_folder(name)
        with self._locked(folder / "plan.lock", wait=True):
            write_plan(folder, Plan(recipe, tuple(planned), tuple(to_come), tuple(notes)), is_done=self.is_done)

    def read_study(self, name: str) -> StudyResult:
        """A study as far as it has come.

        Raises:
            ConfigError: There is no such study.
        """
        plan = self.read_plan(name)
        result = self.result(plan.recipe, plan.planned)
        return replace(result, to_come=plan.to_come, notes=(*plan.notes, *plan.earlier))

    def read_plan(self, name: str) -> Plan:
        """What a study planned.

        Raises:
            ConfigError: There is no such study.
        """
        path = self.study_folder(name) / PLAN
        if not path.is_file():
            raise ConfigError(
                f"{self.root} must hold the study {name!r}; it holds {', '.join(self.studies()) or 'none'}."
            )
        return read_plan(path)

    def result(self, recipe: Mapping[str, Any], planned: tuple[PlannedRun, ...]) -> StudyResult:
        """What is stored of the planned runs: done, failed, or neither."""
        done = {run.run_id: self.read_result(run.run_id) for run in planned if self.is_done(run.run_id)}
        failed = {
            run.run_id: Failure(**read_json(self.run_folder(run.run_id) / "failure.json"))
            for run in planned
            if run.run_id not in done and self.has_failed(run.run_id)
        }
        return StudyResult(recipe, planned, done, failed)


def _acquire(lock: filelock.BaseFileLock, path: Path) -> None:
    """Take a lock whose folder may be missing, or may be pruned away while we wait for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flock not supported", UserWarning)
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
                break
            except FileNotFoundError:
                continue
    if isinstance(lock, filelock.SoftFileLock):
        lock.release()
        raise StoreError(
            f"{path} needs a file system with locks (flock), which this one has not: a killed run would hold it for "
            "ever. Choose another --out, or mount it with locks."
        )


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
            f"{path} must hold a run's result, got one without {error} (of another version?). Delete it to run again."
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


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
