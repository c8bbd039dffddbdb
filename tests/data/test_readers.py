"""Files give rows with their places; what is wrong is said once, with the place."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from neftune.data.readers import BadRow, Row, read_rows
from neftune.errors import DataError

ROWS = [{"instruction": f"say {word}", "output": word} for word in ("a", "b\u2028c\x85d", "e")]


def rows_of(source: object) -> list[Row | BadRow]:
    return [row for _, rows in read_rows(str(source)) for row in rows]


def fields_of(source: object) -> list[dict]:
    rows = rows_of(source)
    assert all(isinstance(row, Row) for row in rows), rows
    return [dict(row.fields) for row in rows if isinstance(row, Row)]


def json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_text(rows: list[dict]) -> bytes:
    return ("instruction,output\n" + "".join(f'"{r["instruction"]}","{r["output"]}"\n' for r in rows)).encode()


CONTENTS = {
    "jsonl": json_lines(ROWS),
    "json": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "csv": csv_text(ROWS),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", CONTENTS)
def test_every_ending_gives_the_same_rows(tmp_path: Path, ending: str, packed: bool):
    path = tmp_path / f"rows.{ending}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(CONTENTS[ending]) if packed else CONTENTS[ending])
    assert fields_of(path) == ROWS


def test_parquet_gives_the_same_rows_lists_included(tmp_path: Path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert fields_of(tmp_path / "rows.parquet") == rows
    assert rows_of(tmp_path / "rows.parquet")[0].where.endswith("rows.parquet, row 1")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("array.jsonl", json.dumps(ROWS, indent=4).encode()),
        ("wrapped.json", json.dumps({"version": [1], "data": ROWS}).encode()),
        ("lines.json", json_lines(ROWS)),
        ("mark.jsonl", b"\xef\xbb\xbf" + json_lines(ROWS)),
        ("mark.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("mark.csv", b"\xef\xbb\xbf" + csv_text(ROWS)),
        ("blank.jsonl", b"\n\n" + json_lines(ROWS).replace(b"\n", b"\r\n") + b"\n"),
    ],
)
def test_files_that_are_not_quite_what_they_are_called(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    assert fields_of(tmp_path / name) == ROWS


def test_one_object_alone_is_one_row(tmp_path: Path):
    row = {"conversations": [{"from": "human", "value": "a"}]}
    (tmp_path / "one.json").write_text(json.dumps(row, indent=1))
    assert fields_of(tmp_path / "one.json") == [row]


def test_a_folder_is_read_in_order_of_names_and_without_strangers(tmp_path: Path):
    for name, row in (("b.jsonl", ROWS[1]), ("a.jsonl.gz", ROWS[0])):
        content = json_lines([row])
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.jsonl").write_text("not data")
    assert fields_of(tmp_path) == ROWS[:2]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"instruction": "a", ', "broken JSON"),
        (b'["a"]', "an array"),
        (b'"a"', "a string"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"3", "a number"),
        (b'{"a": "\xff"}', "UTF-8, got byte 0xff at column 8"),
        (b"[" * 100_000, "broken JSON"),
    ],
)
def test_a_broken_line_is_a_bad_row_with_its_number_and_the_others_are_read(tmp_path: Path, line: bytes, problem: str):
    path = tmp_path / "rows.jsonl"
    good = json_lines(ROWS[:1])
    path.write_bytes(good + b"\n" + line + b"\n" + good)
    first, bad, last = rows_of(path)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(bad, BadRow)
    assert bad.where == f"{path}:3"
    assert problem in bad.problem
    assert last.where == f"{path}:4"


def test_a_csv_record_that_lacks_a_column_is_a_bad_row_with_its_first_line(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text('instruction,output\n"two\nlines",a\nb\n"c","d"\n')
    first, bad, last = rows_of(path)
    assert (first.where, bad.where, last.where) == (f"{path}:2", f"{path}:4", f"{path}:5")
    assert isinstance(bad, BadRow)
    assert "2 columns, got 1" in bad.problem


def test_an_array_entry_that_is_no_object_is_a_bad_row(tmp_path: Path):
    (tmp_path / "rows.json").write_text('[{"a": 1}, 2]')
    bad = rows_of(tmp_path / "rows.json")[1]
    assert isinstance(bad, BadRow)
    assert "row 2" in bad.where


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"")
    assert rows_of(tmp_path / name) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.jsonl.gz", gzip.compress(json_lines(ROWS * 500))[:-40], r"cut\.jsonl\.gz must be a whole gzip file"),
        ("plain.jsonl.gz", json_lines(ROWS), r"must be a whole gzip file, got .* after 0 rows"),
        ("broken.json", b'[{"a": 1},\n {"b"]', r"broken\.json:2: .*broken JSON"),
        ("text.json", b'"text"', "must hold an array of objects.*it is a string"),
        ("bytes.json", b'[{"a":\n"\xff"}]', r"bytes\.json:2: .*UTF-8, got byte 0xff"),
        ("broken.csv", b'a,b\n"c"d,e\n', r"broken\.csv:2: .*comma-separated"),
        ("broken.parquet", b"PAR1 nothing", "whole parquet file"),
        ("empty.parquet", b"", "whole parquet file"),
        ("rows.txt", b"a", r"must end in one of \.jsonl, .*got .*rows\.txt"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / name)


def test_a_folder_without_data_is_an_error(tmp_path: Path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "rows.jsonl").write_bytes(json_lines(ROWS))
    with pytest.raises(DataError, match=r"must hold \.jsonl.*subfolders are not read.*found none in"):
        rows_of(tmp_path)


@pytest.mark.parametrize("source", ["no/such/file.jsonl", "./folder", "data/rows.json", "/no/such/folder"])
def test_a_missing_path_is_not_looked_for_on_the_hub(source: str):
    with pytest.raises(DataError, match="there is no file or folder") as caught:
        rows_of(source)
    assert "hub could not" not in str(caught.value)


class FakeHub:
    """Stands in for the hub: answers `load_dataset` from memory, or with an exception."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[tuple[str, object]] = []

    def __call__(self, name: str, data_files: object = None) -> object:
        self.asked.append((name, data_files))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_hub_id_gives_the_rows_of_its_train_split(monkeypatch: pytest.MonkeyPatch):
    hub = FakeHub({"test": [], "train": ROWS})
    monkeypatch.setattr("datasets.load_dataset", hub)
    assert fields_of("someone/something") == ROWS
    assert hub.asked == [("someone/something", None)]
    assert rows_of("someone/something")[1].where == "someone/something, row 2"


def test_a_hub_id_gives_the_rows_of_its_only_split(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.load_dataset", FakeHub({"validation": ROWS}))
    assert fields_of("someone/something") == ROWS


def test_a_hub_id_with_several_splits_and_none_to_train_on_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.load_dataset", FakeHub({"a": ROWS, "b": ROWS}))
    with pytest.raises(DataError, match="must have a split 'train', got a, b"):
        rows_of("someone/something")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("offline"), "the hub could not be reached .offline.. Check the path, or connect"),
        (FileNotFoundError("no such repository"), "hub data set could not be loaded .no such repository"),
        (ValueError("bad"), "hub data set could not be loaded .bad"),
    ],
)
def test_an_unreachable_hub_differs_from_a_data_set_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
):
    monkeypatch.setattr("datasets.load_dataset", FakeHub(error))
    with pytest.raises(DataError, match=message):
        rows_of("someone/something")


def test_the_real_hub_client_offline_says_so(monkeypatch: pytest.MonkeyPatch):
    import datasets

    if not datasets.config.HF_HUB_OFFLINE:
        pytest.skip("needs HF_HUB_OFFLINE=1")
    with pytest.raises(DataError, match="the hub could not be reached"):
        rows_of("someone/something-that-is-not-cached")


LONG_NUMBER = b'{"instruction": "a", "output": ' + b"1" * 5000 + b"}"
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("bad", [LONG_NUMBER, b'{"a": ' + DEEP + b"}"], ids=["number", "nesting"])
def test_json_that_python_cannot_hold_is_a_bad_row(tmp_path: Path, name: str, bad: bytes):
    good = json.dumps(ROWS[0]).encode()
    (tmp_path / name).write_bytes(good + b"\n" + bad + b"\n" + good + b"\n")
    first, second, third = rows_of(tmp_path / name)
    assert isinstance(second, BadRow)
    assert second.where.endswith(":2")
    assert isinstance(first, Row)
    assert isinstance(third, Row)


@pytest.mark.parametrize("content", [b"[" + LONG_NUMBER + b"]", DEEP], ids=["number", "nesting"])
def test_an_array_that_python_cannot_hold_is_an_error_with_the_file(tmp_path: Path, content: bytes):
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.json: a file must be one JSON array that can be read"):
        rows_of(tmp_path / "rows.json")


@pytest.mark.parametrize("source", ["~nosuchuser/rows.json", "x" * 5000, f"{'y' * 300}.jsonl"])
def test_what_cannot_be_a_path_is_an_error(source: str):
    with pytest.raises(DataError, match=r"cannot be a path .*Check the path") as error:
        rows_of(source)
    assert len(str(error.value)) < 400


def test_lines_in_a_json_file_may_begin_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "rows.json").write_bytes(b"\xef\xbb\xbf" + CONTENTS["jsonl"])
    assert fields_of(tmp_path / "rows.json") == ROWS


def test_a_column_named_twice_is_an_error(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("instruction,output,output\na,b,c\n")
    with pytest.raises(DataError, match=r"rows\.csv:1: .*'output' more than once"):
        rows_of(tmp_path / "rows.csv")
