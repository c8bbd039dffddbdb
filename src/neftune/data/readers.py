"""Rows from files, folders and the hub: what stands there, and where it stands.

A row that cannot be read is a `BadRow`, so that the caller decides between stopping and skipping; a file that cannot
be read at all is a `DataError`.
"""

import csv
import gzip
import itertools
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from neftune.errors import DataError, MissingExtraError


@dataclass(frozen=True, slots=True)
class Row:
    """One record.

    Attributes:
        where: File and line ("a.jsonl:3") or file and record ("a.parquet, row 3"), counted from 1.
        fields: Field name -> value.
    """

    where: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that is not one: where it stands and what is wrong with it."""

    where: str
    problem: str


Rows = Iterator[Row | BadRow]

_BOM = b"\xef\xbb\xbf"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def read_rows(source: str | Path, *, data_files: str | None = None) -> Iterator[tuple[str, Rows]]:
    """Each file of a source with its rows, in a fixed order.

    Args:
        source: A file, a folder of files (taken in order of their names, subfolders ignored), or a hub id.
        data_files: For a hub id, the one file of it that is read; None reads its "train" split.

    Raises:
        DataError: There is no such file or hub data set, or no file that can be read.
    """
    path, exists = _find(source)
    if exists and path.is_dir():
        for file in _files_of(path):
            yield str(file), _read_file(file)
    elif exists:
        _require_known(path)
        yield str(path), _read_file(path)
    elif _HUB_ID.fullmatch(str(source)) and _kind(path) is None:
        yield str(source), _read_hub(str(source), data_files)
    else:
        raise DataError(
            f"data.source must be a file, a folder, a hub id or a named data set; there is no file or folder {path}. "
            "Check the path."
        )


def _find(source: str | Path) -> tuple[Path, bool]:
    """The path that a source names, and whether it is there."""
    try:
        path = Path(source).expanduser()
        return path, path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a user unknown, a null character
        shown = str(source) if len(str(source)) <= 80 else f"{str(source)[:80]}..."
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"data.source must be a file, a folder, a hub id or a named data set, got {shown!r}, which cannot be a "
            f"path ({reason}). Check the path."
        ) from error


def _files_of(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and _kind(file) and file.name[0] != ".")
    if not files:
        raise DataError(
            f"a data folder must hold {_known_endings()} files (subfolders are not read), found none in {folder}."
        )
    return files


def _require_known(path: Path) -> None:
    if _kind(path) is None:
        raise DataError(f"a data file must end in one of {_known_endings()}, got {path}. Convert or rename it.")


def _kind(path: Path) -> str | None:
    """The ending that says how a file is read ("jsonl", whether packed or not), or None."""
    name = path.name.lower()
    for ending in _READERS:
        if name.endswith(f".{ending}") or (ending != "parquet" and name.endswith(f".{ending}.gz")):
            return ending
    return None


def _known_endings() -> str:
    return ", ".join(f".{ending}" for ending in _READERS) + " (also .gz, parquet excepted)"


def _read_file(path: Path) -> Rows:
    """Rows of one file; what the file system or the compression says becomes a `DataError`."""
    reader = _READERS[_kind(path) or ""]
    num_rows = 0
    try:
        with _open(path) as file:
            for row in reader(file, path):
                num_rows += 1
                yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} must be a whole gzip file, got a broken or cut-off one after {num_rows} rows ({error}). "
            "Fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path} must be readable, got: {error.strerror or error}.") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _read_json_lines(file: BinaryIO, path: Path) -> Rows:
    """One JSON object a line; lines end in a line feed and nothing else. An array in such a file is read as one."""
    lines = enumerate(file, start=1)
    start, first = next(((number, line) for number, line in lines if line.removeprefix(_BOM).strip()), (0, b""))
    first = first.removeprefix(_BOM)
    if first.lstrip().startswith(b"["):
        yield from _rows_of_json(first + file.read(), path)
        return
    for number, line in itertools.chain([(start, first)], lines):
        if line.strip():
            yield _row_of_line(line, f"{path}:{number}")


def _row_of_line(line: bytes, where: str) -> Row | BadRow:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return BadRow(where, f"a line must be UTF-8, got byte 0x{line[error.start]:02x} at column {error.start + 1}")
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or nesting without end
        return BadRow(where, f"a line must be one JSON object, got broken JSON ({error})")
    if not isinstance(value, dict):
        return BadRow(where, f"a line must be one JSON object, got {_named(value)}")
    return Row(where, value)


def _read_json(file: BinaryIO, path: Path) -> Rows:
    """An array of objects, alone or as {"data": [...]}, or JSON lines after all."""
    content = file.read().removeprefix(_BOM)
    lines = [line for line in content.split(b"\n") if line.strip()]
    if len(lines) > 1 and _is_object(lines[0]):
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                yield _row_of_line(line, f"{path}:{number}")
        return
    if lines:
        yield from _rows_of_json(content, path)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _rows_of_json(content: bytes, path: Path) -> Rows:
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: a file must be UTF-8, got byte 0x{content[error.start]:02x}.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: a file must be one JSON array, got broken JSON ({error}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: a file must be one JSON array that can be read, got: {error}.") from error
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    if not isinstance(value, list):
        raise DataError(
            f"{path}: a .json file must hold an array of objects, or an object with one called data; "
            f"it is {_named(value)}."
        )
    for number, one in enumerate(value, start=1):
        where = f"{path}, row {number}"
        yield Row(where, one) if isinstance(one, dict) else BadRow(where, f"a row must be an object, got {_named(one)}")


def _read_csv(file: BinaryIO, path: Path) -> Rows:
    """Records under a header line; a quoted field may span lines, and the record's first line is reported."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # Undecodable bytes become lone surrogates, which the format then reports with the row they stand in.
    lines = (line.decode("utf-8", "surrogateescape") for line in file)
    reader = csv.reader((line.removeprefix("\ufeff") if i == 0 else line for i, line in enumerate(lines)), strict=True)
    try:
        header = next(reader, [])
        _require_distinct(header, path)
        start = reader.line_num + 1
        for record in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not record:
                continue
            if len(record) == len(header):
                yield Row(where, dict(zip(header, record, strict=True)))
            else:
                yield BadRow(where, f"a record must have the header's {len(header)} columns, got {len(record)}")
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: a file must be comma-separated values, got: {error}.") from error


def _require_distinct(header: list[str], path: Path) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}:1: a header must name each column once, got {', '.join(map(repr, twice))} more than once. "
            "Rename or remove columns."
        )


def _read_parquet(file: BinaryIO, path: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("reading parquet needs pyarrow: pip install 'neftune[train]'") from error
    numbers = itertools.count(1)
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                yield Row(f"{path}, row {next(numbers)}", fields)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} must be a whole parquet file, got: {error}.") from error


def _read_hub(name: str, data_files: str | None) -> Rows:
    """Rows of a hub data set's "train" split, or of its only split."""
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise MissingExtraError("reading from the hub needs datasets: pip install 'neftune[train]'") from error
    try:
        splits = datasets.load_dataset(name, data_files=data_files)
    except ConnectionError as error:
        raise DataError(
            f"data.source must exist here or on the hub: there is no file or folder {name!r} here, and the hub could "
            f"not be reached ({error}). Check the path, or connect."
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"data.source must exist here or on the hub: there is no file or folder {name!r} here, and the hub data "
            f"set could not be loaded ({error}). Check the spelling; a gated data set needs `hf auth login`."
        ) from error
    split = "train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None
    if split is None:
        raise DataError(f"hub data set {name!r} must have a split 'train', got {', '.join(map(str, splits))}.")
    for number, fields in enumerate(splits[split], start=1):
        yield Row(f"{name}, row {number}", dict(fields))


def _named(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


_READERS: dict[str, Callable[[BinaryIO, Path], Rows]] = {
    "jsonl": _read_json_lines,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
