"""Files that a reader sees as they were or as they are, never in between."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from neftune.errors import StoreError

_UMASK = os.umask(0o022)
os.umask(_UMASK)


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, never a part.

    Args:
        path: The file.
        value: Plain data; NaN becomes null.
        durable: Also survive a power cut (fsync).

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    write_bytes(path, json_bytes(value), durable=durable)


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8; text that UTF-8 cannot hold (a lone surrogate) is escaped."""
    finite = _finite(value)
    try:
        return json.dumps(finite, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(finite, allow_nan=False).encode()


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all; arguments and errors as `write_json`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_UMASK)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        if durable:
            _sync_folder(path.parent)
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
        return json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path} could not be read: {error.strerror}.") from error
    except ValueError as error:
        raise StoreError(f"{path} must be JSON: {error}. Delete it to run again.") from error


def is_whole_json(path: Path) -> bool:
    """Whether a file holds an object of JSON to its end, by its last byte.

    A power cut can leave a file short, or of the right length and full of zeros, on disks that promise more than they
    keep; such a file is no result.
    """
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"}"
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk; systems that cannot open folders need no such thing."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _finite(value: object) -> Any:
    """Plain data with NaN and infinities as null."""
    if isinstance(value, float):
        return value if value == value and value not in (float("inf"), float("-inf")) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in cast(Sequence[object], value)]
    return value
