"""What makes two runs the same run: the code, the libraries, the weights they start from, the examples they read."""

import functools
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

import neftune
from neftune.config import DataConfig, EvaluateConfig, RunConfig
from neftune.study.data import load_run_data

DETERMINING = (
    "noise",
    "integrations",
    "data",
    "training",
    "evaluation",
    "records.py",
    "config/run.py",
    "study/run.py",
    "study/data.py",
    "study/rank.py",
    "study/launch.py",
    "study/agent.py",
    "study/nodes.py",
)
"""Code that a run's result depends on; analysis and report can change without training anything again."""

LIBRARIES = ("torch", "numpy", "transformers", "trl", "peft", "accelerate", "tokenizers", "lm-eval")
"""Libraries that every run's result depends on; `libraries_of` names those that a run's settings call for."""


@functools.cache
def code_version() -> str:
    """Hash of the determining code and library versions."""
    digest = hashlib.sha256()
    root = Path(neftune.__file__).parent
    for name in DETERMINING:
        path = root / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {importlib.metadata.version(library)}".encode())
    return digest.hexdigest()[:16]


def libraries_of(run: RunConfig) -> tuple[str, ...]:
    """Libraries beyond `LIBRARIES` that hold this run's optimiser or weights."""
    from neftune.training.optimizers import optimizers

    asked = {optimizers[run.train.optimizer].library, "bitsandbytes" if run.model.quantization else None}
    return tuple(sorted(library for library in asked if library))


def versions(run: RunConfig | None = None) -> dict[str, str]:
    """Libraries, code and machine, for the report; with a run, the libraries that it alone calls for too."""
    libraries = (*LIBRARIES, *(libraries_of(run) if run else ()))
    known = {library: importlib.metadata.version(library) for library in libraries}
    return {
        "neftune": neftune.__version__,
        "code": code_version(),
        **known,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def model_fingerprint(run: RunConfig) -> str:
    """Hash of the weights a run starts from, and the versions of the libraries that it alone calls for.

    A folder is hashed by its files' names and contents; a hub id is taken by name; the microworld's base follows from
    the world's seed and the code.
    """
    path = Path(run.model.path)
    libraries = [f"{library} {importlib.metadata.version(library)}" for library in libraries_of(run)]
    if run.model.path == "microworld":
        weights = f"microworld {run.data.seed}"
    else:
        weights = _folder_hash(path.resolve(), _state(path)) if path.is_dir() else run.model.path
    return " ".join([weights, *libraries])


def data_fingerprint(data: DataConfig) -> str:
    """Hash of the examples a data configuration gives; reads them, so that bad data is found before any run.

    Raises:
        DataError: The data cannot be read, or holds too little.
    """
    return load_run_data(data).fingerprint


def evaluation_fingerprint(evaluate: EvaluateConfig) -> str:
    """Hash of the files that an evaluation reads beside the data: the benchmarks'; "" where there are none."""
    folders = [Path(one) for one in (evaluate.benchmarks.data, evaluate.benchmarks.task_folder) if one]
    if not evaluate.benchmarks.tasks or not folders:
        return ""
    return " ".join(_folder_hash(one.resolve(), _state(one)) for one in folders if one.is_dir())


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@functools.cache
def _folder_hash(folder: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size, _ in state:
        digest.update(f"{name}\0{size}\0".encode())
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
