"""Answers of judges in SQLite: each is on the disk before it counts, and none is asked for twice.

A key is a hash of all that decides an answer: the server's name, the model, the sampling settings and the messages (so
the template, both answers and their sides). The server's name is its base URL, since two servers may call different
models by one name; give it a name of its own where the same server moves (a job on another node).
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from neftune.errors import StoreError
from neftune.evaluation.preference.endpoint import ChatSettings
from neftune.evaluation.preference.replies import Completion
from neftune.records import Turn, content_hash

_FORMAT = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, server TEXT NOT NULL, model TEXT NOT NULL, completion TEXT NOT NULL, answered_at TEXT NOT NULL
) WITHOUT ROWID
"""
_MOST_AT_ONCE = 500


def answer_key(server: str, settings: ChatSettings, turns: Iterable[Turn]) -> str:
    """The key of one answer."""
    messages = [[turn.role, turn.content] for turn in turns]
    return content_hash([_FORMAT, server, settings.body(), messages], length=40)


class VerdictStore:
    """Answers by key in one file; several processes may use it at once (not over a network file system).

    Use as a context manager.

    Args:
        path: The file; made where it is not there yet.

    Raises:
        StoreError: The file cannot be made or read, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_TABLE)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _FORMAT):
                raise StoreError(f"{path} must be a verdict file of format {_FORMAT}, got {version}. Use another file.")
            self._db.execute(f"PRAGMA user_version={_FORMAT}")
        except sqlite3.Error as error:
            self._db.close()
            raise self._error(error) from error
        except StoreError:
            self._db.close()
            raise

    def __enter__(self) -> "VerdictStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def get(self, key: str) -> Completion | None:
        """The answer under a key; None where there is none."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Completion]:
        """The answers there are, by key.

        Raises:
            StoreError: The file cannot be read, or an answer in it is broken.
        """
        wanted = list(keys)
        found: dict[str, Completion] = {}
        try:
            for start in range(0, len(wanted), _MOST_AT_ONCE):
                some = wanted[start : start + _MOST_AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, completion FROM answers WHERE key IN ({marks})"
                found |= {key: Completion(**json.loads(text)) for key, text in self._db.execute(query, some)}
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._error(error) from error
        return found

    def put(self, key: str, completion: Completion, *, server: str, model: str) -> None:
        """Keep an answer; it is on the disk on return. An answer that is there already (another process) stays.

        Raises:
            StoreError: It cannot be written; it does not count then.
        """
        row = (key, server, model, json.dumps(asdict(completion)), datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StoreError:
        return StoreError(
            f"the verdict file {self.path} must be readable and writable, got: {error}. What is in it is kept; see "
            "that the disk has room and the file is no other, then run the same command again."
        )
