"""Files of prompts and outputs, whole and broken, and how two of them join."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from neftune.errors import DataError
from neftune.evaluation.outputs import join, outputs_of_answers, read_outputs, read_prompts
from neftune.records import Answer


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"Say {number}.", "output": f"{number}", **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(one) for one in rows))
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz", "lines.json"])
def test_every_form_of_a_file(tmp_path: Path, name: str):
    rows = [row(1, generator="g", input="two\u2028lines"), row(2, generator="g", output="")]
    text = json.dumps(rows) if "a.json" in name and "jsonl" not in name else "\n".join(map(json.dumps, rows)) + "\n\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    found = read_outputs(path)
    assert [one.fields for one in found.rows] == rows
    assert found.rows[0].prompt == "Say 1.\n\ntwo\u2028lines"
    assert (found.generator, found.num_empty, found.id_field) == ("g", 1, None)


def test_the_file_names_outputs_that_do_not(tmp_path: Path):
    assert read_outputs(write(tmp_path / "arm5.outputs.jsonl", [row(1)])).generator == "arm5"
    mixed = write(tmp_path / "b.jsonl", [row(1, generator="g"), row(2, generator="h")])
    assert read_outputs(mixed).generator == "b"


def test_prompts_need_no_output(tmp_path: Path):
    path = write(tmp_path / "prompts.jsonl", [{"instruction": "Say 1.", "idx": 0}])
    assert read_prompts(path).rows[0].id == "0"
    with pytest.raises(DataError, match=r"prompts.jsonl:1: an output row must have .* got none for output"):
        read_outputs(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold at least one row, got none"),
        ("[]", "must hold at least one row, got none"),
        ('{"instruction": "a", "output": "b"}\n{oops', r"a.jsonl:2: .* broken JSON"),
        ('[{"instruction": "a"}]', r"row 1: .* got none for output"),
        ('{"output": "b"}', "got none for instruction"),
        ('{"instruction": "a", "output": 3}', "got none for output"),
        ("3", r"a.jsonl:1: a line must be one JSON object, got a number"),
        ("[1, 2", "broken JSON"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, text: str, said: str):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_outputs(path)


def test_what_is_no_file_of_outputs(tmp_path: Path):
    with pytest.raises(DataError, match=r"outputs must be a file, got .*none.json"):
        read_outputs(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="must be UTF-8"):
        read_outputs(tmp_path / "binary.json")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b'[{"instruction": "a"}]')[:-9])
    with pytest.raises(DataError, match="whole gzip file"):
        read_outputs(tmp_path / "cut.json.gz")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(1, id="a"), row(2)], r"a.jsonl:2: every row must have id .* 1 of 2 have none"),
        ([row(1, id="a"), row(2, id="a")], r"a.jsonl:2: .* got the id 'a' a second time \(the first: .*a.jsonl:1\)"),
        ([row(1), row(2), row(1)], r"a.jsonl:3: .* an answer to 'Say 1.' a second time .* give rows an id"),
    ],
)
def test_prompts_that_cannot_be_told_apart(tmp_path: Path, rows: list[dict[str, Any]], said: str):
    with pytest.raises(DataError, match=said):
        read_outputs(write(tmp_path / "a.jsonl", rows))


def test_the_field_that_every_row_has_holds_the_ids(tmp_path: Path):
    rows = [row(1, id="2", idx=1), row(2, idx=2)]
    found = read_outputs(write(tmp_path / "a.jsonl", rows))
    assert (found.id_field, [one.id for one in found.rows]) == ("idx", ["1", "2"])
    with pytest.raises(DataError, match="id in some rows and idx in others"):
        read_outputs(write(tmp_path / "b.jsonl", [row(1, id=1), row(2, idx=2)]))


def test_joining_by_id_or_by_prompt(tmp_path: Path):
    ids = read_outputs(write(tmp_path / "a.jsonl", [row(1, id="x"), row(1, id="y")]))
    turned = read_outputs(write(tmp_path / "b.jsonl", [row(1, id="y", output="Y"), row(1, id="x", output="X")]))
    assert [(a.id, b.text) for a, b in join(ids, turned)] == [("x", "X"), ("y", "Y")]
    bare = read_outputs(write(tmp_path / "c.jsonl", [row(1), row(1, input="more")]))
    with pytest.raises(DataError, match=r"a prompt may stand twice only where both sides have ids"):
        join(ids, bare)
    other = read_outputs(write(tmp_path / "d.jsonl", [row(1, input="more", idx=7), row(1, idx=8)]))
    assert [(a.input, b.id) for a, b in join(bare, other)] == [("", "8"), ("more", "7")]


def test_sides_that_do_not_join(tmp_path: Path):
    a = read_outputs(write(tmp_path / "a.jsonl", [row(1), row(2), row(3)]))
    b = read_outputs(write(tmp_path / "b.jsonl", [row(3), row(4)]))
    with pytest.raises(
        DataError, match=r"got 1 in common and 2 only in .*a.jsonl \(the first: 'Say 1.'\), 1 only in .*'Say 4.'"
    ):
        join(a, b)
    c = read_outputs(write(tmp_path / "c.jsonl", [row(1, id="x"), row(2, id="y")]))
    d = read_outputs(write(tmp_path / "d.jsonl", [row(1, id="x"), row(3, id="y")]))
    with pytest.raises(DataError, match=r"got 1 ids with two; the first: .*c.jsonl:2 asks 'Say 2.'"):
        join(c, d)


def test_answers_of_a_run_are_outputs():
    answers = [Answer(f"e{i}", f"Q{i}", f"A{i}", "ref", 1, True) for i in range(2)]
    found = outputs_of_answers(answers, "runs/abc")
    assert [(one.id, one.instruction, one.text) for one in found.rows] == [("e0", "Q0", "A0"), ("e1", "Q1", "A1")]
    assert found.generator == "abc"
    with pytest.raises(DataError, match="a second time"):
        outputs_of_answers(answers + answers, "runs/abc")


def test_alpacaeval_asks_nothing_twice(shared: Path):
    prompts = read_prompts(shared / "data" / "alpaca_eval" / "instructions.jsonl")
    assert len(prompts.rows) == len({one.instruction for one in prompts.rows}) == 805
