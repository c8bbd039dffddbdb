"""Finished answers on disk, by model and token ids."""

import hashlib
import json
import sqlite3
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from neftune.errors import StoreError
from neftune.evaluation.losses import base_model
from neftune.evaluation.scoring.forward import Answer
from neftune.evaluation.scoring.tree import Request

_FORMAT = 1
_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    request BLOB PRIMARY KEY, log_likelihood REAL NOT NULL, is_greedy INTEGER NOT NULL) WITHOUT ROWID"""


class AnswerStore:
    """Answers of one model in one SQLite file, which several models may share.

    Each call of `write` is on disk when it returns to a process that is killed afterwards.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Open or create the file.

        Args:
            path: Of the SQLite file; its folder is made.
            fingerprint: Of the model and of how it is run.

        Raises:
            StoreError: The file is not such a store, or cannot be written.
        """
        self._path = path
        self._fingerprint = fingerprint.encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=60)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(_TABLE)
            self._connection.commit()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"score_cache must be a SQLite file of answers that can be written, got {path} ({error}). "
                "Name another file."
            ) from error
        weakref.finalize(self, self._connection.close)

    def find(self, requests: Sequence[Request]) -> dict[int, Answer]:
        """The stored answers, by index of the request."""
        found: dict[int, Answer] = {}
        for index, request in enumerate(requests):
            query = "SELECT log_likelihood, is_greedy FROM answers WHERE request = ?"
            row = self._connection.execute(query, (self._key(request),)).fetchone()
            if row is not None:
                found[index] = Answer(float(row[0]), bool(row[1]))
        return found

    def write(self, answers: Iterable[tuple[Request, Answer]]) -> None:
        """Store all of them or none.

        Raises:
            StoreError: The file cannot be written.
        """
        rows = [(self._key(request), answer.log_likelihood, answer.is_greedy) for request, answer in answers]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise StoreError(
                f"score_cache must take every finished answer, but {self._path} cannot be written ({error}). What it "
                "holds is kept: make room, or close what locks it, and run the same command again."
            ) from error

    def _key(self, request: Request) -> bytes:
        content = self._fingerprint + request.num_scored.to_bytes(8, "big") + request.tokens
        return hashlib.blake2b(content, digest_size=24).digest()


def fingerprint(model: Any, **settings: object) -> str:
    """A hash of all that an answer depends on besides the tokens: every weight, the configuration, the adapters.

    Args:
        model: A model of transformers, with or without PEFT adapters.
        settings: What else matters, such as the type of the softmax.
    """
    own = base_model(model)
    adapters = {name: _without_paths(config) for name, config in getattr(model, "peft_config", {}).items()}
    about = {
        "format": _FORMAT,
        "class": type(own).__name__,
        "config": _without_paths(own.config),
        "attention": own.config._attn_implementation,
        "adapters": adapters,
        "active": getattr(model, "active_adapters", None) if adapters else None,
        "disabled": [
            name for name, module in own.named_modules() if getattr(module, "disable_adapters", False) is True
        ],
        "settings": settings,
    }
    total = hashlib.blake2b(json.dumps(about, sort_keys=True, default=_as_json).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(_content(tensor))
    return total.hexdigest()


def _without_paths(config: Any) -> dict[str, Any]:
    """Where a model lies says nothing about it."""
    paths = ("_name_or_path", "base_model_name_or_path")
    return {name: value for name, value in config.to_dict().items() if name not in paths}


def _as_json(value: Any) -> Any:
    """A set in one order: PEFT keeps the names of adapted modules in one, whose order differs between processes."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _content(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
