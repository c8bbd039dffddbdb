"""Where a benchmark's files lie in a folder, and their rows by split as lm-eval's task definitions expect them."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neftune.data.readers import BadRow, Row, Rows, read_rows
from neftune.errors import DataError
from neftune.evaluation.benchmarks.rows import (
    BrokenRowError,
    Convert,
    arc_row,
    hellaswag_row,
    ifeval_row,
    mmlu_row,
    truthfulqa_row,
)

HubRows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class LocalSource:
    """How the files of one hub data set are found and read.

    Attributes:
        files: Split -> patterns of file names, the first that matches anywhere below the folder is taken.
        convert: Makes a row of the hub's schema.
        published: Split -> rows that the published data set has.
    """

    files: Mapping[str, tuple[str, ...]]
    convert: Convert
    published: Mapping[str, int] = field(default_factory=dict[str, int])


def _arc(name: str, train: int, validation: int, test: int) -> LocalSource:
    under = name.replace("-", "_").lower()

    def patterns(split: str, hub: str) -> tuple[str, ...]:
        return (f"{name}-{split}.jsonl*", f"{under}_{split.lower()}.jsonl*", f"{name}/{hub}-*.parquet")

    return LocalSource(
        {"train": patterns("Train", "train"), "validation": patterns("Dev", "validation")}
        | {"test": patterns("Test", "test")},
        arc_row,
        {"train": train, "validation": validation, "test": test},
    )


SOURCES: dict[tuple[str, str | None], LocalSource] = {
    ("allenai/ai2_arc", "ARC-Challenge"): _arc("ARC-Challenge", 1119, 299, 1172),
    ("allenai/ai2_arc", "ARC-Easy"): _arc("ARC-Easy", 2251, 570, 2376),
    ("Rowan/hellaswag", None): LocalSource(
        {
            "train": ("hellaswag_train*.jsonl*", "*hellaswag*/**/train-*.parquet"),
            "validation": ("hellaswag_val*.jsonl*", "*hellaswag*/**/validation-*.parquet"),
        },
        hellaswag_row,
        {"train": 39905, "validation": 10042},
    ),
    ("cais/mmlu", None): LocalSource(
        {
            "dev": ("mmlu_dev.jsonl*", "dev/*_dev.csv*", "all/dev-*.parquet"),
            "validation": ("mmlu_val.jsonl*", "val/*_val.csv*", "all/validation-*.parquet"),
            "test": ("mmlu_test.jsonl*", "test/*_test.csv*", "all/test-*.parquet"),
        },
        mmlu_row,
        {"dev": 285, "validation": 1531, "test": 14042},
    ),
    ("truthfulqa/truthful_qa", "multiple_choice"): LocalSource(
        {
            "validation": (
                *("mc_task.json*", "truthfulqa_mc_v1.jsonl*", "truthfulqa_mc.jsonl*"),
                "multiple_choice/validation-*.parquet",
            )
        },
        truthfulqa_row,
        {"validation": 817},
    ),
    ("google/IFEval", None): LocalSource(
        {"train": ("ifeval_input_data.jsonl*", "input_data.jsonl*")}, ifeval_row, {"train": 541}
    ),
}
"""By the data set's path and name on the hub, as lm-eval's definitions give them; every subject of cais/mmlu is one."""


@dataclass(frozen=True, slots=True)
class SplitRows:
    """One split of a data set in the hub's schema.

    Attributes:
        rows: The rows, in the order of the files.
        files: What was read.
        note: Where the file is not the published split: how many rows of how many. "" otherwise.
    """

    rows: HubRows
    files: tuple[Path, ...]
    note: str


def source_of(path: str, name: str | None) -> LocalSource | None:
    """The local form of a hub data set; None where none is known."""
    return SOURCES.get((path, name)) or (SOURCES.get((path, None)) if path == "cais/mmlu" else None)


def read_split(source: LocalSource, split: str, folder: Path) -> SplitRows | None:
    """Every row of a split; None where no file for it lies in the folder.

    Raises:
        DataError: A row is broken (its file and line are named), or more than one file could be meant.
    """
    files = _find(source.files.get(split, ()), folder)
    if not files:
        return None
    rows: HubRows = []
    for file in files:
        for row in _rows_of(file):
            rows.append(_converted(source.convert, row))
    if not rows:
        raise DataError(f"{files[0]} must hold the rows of split {split!r}, got none. Fetch it again.")
    published = source.published.get(split, len(rows))
    note = "" if len(rows) == published else f"{files[0].name} has {len(rows):,} rows, the published one {published:,}"
    return SplitRows(rows, tuple(files), note)


def wanted(source: LocalSource, split: str, folder: Path) -> str:
    """What is looked for, for the message that it is not there."""
    names = " or ".join(source.files.get(split, ())) or "nothing that is known"
    return f"split {split!r} needs {names} in {folder} or below"


def _find(patterns: Sequence[str], folder: Path) -> list[Path]:
    for pattern in patterns:
        found = sorted(path for path in folder.rglob(pattern) if path.is_file())
        depth = min((len(path.parts) for path in found), default=0)
        nearest = [path for path in found if len(path.parts) == depth]
        if len({path.parent for path in nearest}) > 1 or (len(nearest) > 1 and not _is_many(pattern)):
            shown = ", ".join(str(path.relative_to(folder)) for path in nearest[:3])
            raise DataError(f"one file must match {pattern} in {folder}, got {len(nearest)}: {shown}. Name its folder.")
        if nearest:
            return nearest
    return []


def _is_many(pattern: str) -> bool:
    """Whether a split lies in several files: one a subject, or one a shard."""
    return pattern.endswith((".parquet", ".csv*"))


def _rows_of(file: Path) -> Rows:
    if file.name.removesuffix(".gz").endswith(".csv"):
        yield from _subject_rows(file)
        return
    for _, rows in read_rows(file):
        yield from rows


def _subject_rows(file: Path) -> Iterator[Row | BadRow]:
    """Rows of one of MMLU's own files: no header; question, four choices, letter. The name begins with the subject."""
    subject = file.name.removesuffix(".gz").removesuffix(".csv").rpartition("_")[0]
    reader = csv.reader(io.StringIO(_text_of(file), newline=""))
    start = 1
    for record in reader:
        where, start = f"{file}:{start}", reader.line_num + 1
        if len(record) == 6:
            question, *choices, answer = record
            yield Row(where, {"subject": subject, "question": question, "choices": choices, "answer": answer})
        elif record:
            yield BadRow(where, f"a record must have a question, four choices and a letter, got {len(record)} fields")


def _text_of(file: Path) -> str:
    try:
        content = file.read_bytes()
        return (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file} must be a whole file of UTF-8 text, got: {error}. Fetch it again.") from error


def _converted(convert: Convert, row: Row | BadRow) -> dict[str, Any]:
    if isinstance(row, BadRow):
        raise DataError(f"{row.where}: {row.problem}. Correct or remove the row.")
    try:
        return convert(row.fields)
    except BrokenRowError as error:
        raise DataError(f"{row.where}: {error}. Correct or remove the row.") from error
