"""Files of judgements: what is read, what is refused, and the copied judgements on AlpacaEval's own board."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neftune.errors import DataError
from neftune.evaluation.annotations import copied_judgements, difficulties_for, misfiled, read_annotations
from neftune.evaluation.winrate_summary import Tables, summarise
from tests.published_boards import judged

ROW = {"idx": 0, "generator_1": "base", "generator_2": "ours", "preference": 2, "len_1": 3, "len_2": 5}


def lines(tmp_path: Path, *rows: Any, name: str = "annotations.jsonl") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_copied_judgements_on_the_published_board_are_found(shared: Path):
    models = judged(shared / "data" / "alpaca_eval", "ae1").values()
    assert copied_judgements(models) == [("falcon-40b-instruct", "falcon-7b-instruct")]
    warnings = [line for line in misfiled(models) if "copy" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("falcon-7b-instruct: ")
    assert "'falcon-40b-instruct'" in warnings[0]
    assert copied_judgements(judged(shared / "data" / "alpaca_eval", "ae2").values()) == []


def test_every_form_reads_the_same(tmp_path: Path):
    rows = [
        {**ROW, "preference": 2},
        {**ROW, "idx": 1, "preference": None, "len_1": None, "len_2": None},
        {**ROW, "idx": 2, "preference": 1.25},
    ]
    table = tmp_path / "annotations.csv"
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    table.write_text("\n".join([",".join(ROW), *(",".join(row) for row in cells)]))
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    for path in (lines(tmp_path, *rows), table, tmp_path / "annotations.json"):
        (one,) = read_annotations([path])
        assert (one.model, one.baseline, one.ids) == ("ours", "base", ("0", "1", "2"))
        np.testing.assert_equal(one.preferences, [2, math.nan, 1.25])
        np.testing.assert_equal(one.model_lengths, [5, math.nan, 5])
        assert one.has_lengths


def test_lengths_come_from_outputs_in_characters(tmp_path: Path):
    row = {"preference": 1, "generator_2": "ours", "output_1": "né 👍", "output_2": ""}
    (one,) = read_annotations([lines(tmp_path, row)])
    assert (one.baseline_lengths.tolist(), one.model_lengths.tolist()) == ([4], [0])
    assert one.ids == ("0",)


def test_the_reference_may_stand_on_either_side(tmp_path: Path):
    turned = {**ROW, "idx": 1, "generator_1": "ours", "generator_2": "base", "preference": 1.25, "len_1": 7, "len_2": 2}
    draw = {**turned, "idx": 2, "preference": 0}
    path = lines(tmp_path, ROW, turned, draw)
    (one,) = read_annotations([path], reference="base")
    assert one.preferences.tolist() == [2, 1.75, 0]
    assert one.model_lengths.tolist() == [5, 7, 7]
    assert one.baseline_lengths.tolist() == [3, 2, 2]
    assert len(read_annotations([path])) == 2
    with pytest.raises(DataError, match=r":1: the reference 'other' must be generator_1 or generator_2"):
        read_annotations([path], reference="other")


def test_what_names_the_model(tmp_path: Path):
    path = lines(tmp_path, {**ROW, "model": "filed"}, name="results/folder/judge/annotations.jsonl")
    for by, name in (("auto", "filed"), ("model", "filed"), ("generator", "ours"), ("folder", "folder")):
        assert read_annotations([path], by=by)[0].model == name
    assert "perhaps another name" in misfiled(read_annotations([path]))[0]
    with pytest.raises(DataError, match=r"must name its model \(model\)"):
        read_annotations([lines(tmp_path, ROW)], by="model")


def test_annotators_are_kept_apart(tmp_path: Path):
    path = lines(tmp_path, {**ROW, "annotator": "a"}, {**ROW, "annotator": "b"})
    assert [one.annotator for one in read_annotations([path])] == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["{"], r"jsonl:1: a line must be one JSON object"),
        ([], "must have rows, got none"),
        ([{**ROW, "preference": 3}], r"jsonl:1: a preference must be between 1 .* got 3"),
        ([{**ROW, "preference": True}], "got True"),
        ([{**ROW, "preference": "model_1"}], "got 'model_1'"),
        ([{"idx": 0, "generator_2": "ours"}], r"must have a preference .*, got none"),
        ([{"idx": 0, "preference": 1}], r"must name its model \(model or generator_2\)"),
        ([ROW, {**ROW, "preference": 1}], r"jsonl:2: ours must be judged once per instruction, got '0' a second time"),
        ([ROW, {"preference": 1, "generator_1": "base", "generator_2": "ours"}], r"jsonl:2: every row of ours must"),
        ([ROW, {**ROW, "idx": 1, "len_1": None}], r"jsonl:2: lengths .* got 1 of 2 without"),
        ([{**ROW, "len_2": -1}], "len_2 must be a number of characters, got -1"),
        ([{**ROW, "len_2": "long"}], "got 'long'"),
    ],
)  # fmt: skip
def test_broken_rows_are_named(tmp_path: Path, rows: list[Any], said: str):
    with pytest.raises(DataError, match=said):
        read_annotations([lines(tmp_path, *rows)])


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match="annotations must be a file, got"):
        read_annotations([tmp_path / "no" / "file.jsonl"])


def test_difficulties_are_joined_by_id_or_by_a_whole_order(tmp_path: Path):
    difficulties = {"0": 0.5, "1": -1.0}
    (named,) = read_annotations([lines(tmp_path, {**ROW, "idx": 1}, ROW)])
    assert difficulties_for(named, difficulties).tolist() == [-1.0, 0.5]
    bare = {key: value for key, value in ROW.items() if key != "idx"}
    (whole,) = read_annotations([lines(tmp_path, bare, bare)])
    assert difficulties_for(whole, difficulties).tolist() == [0.5, -1.0]
    (part,) = read_annotations([lines(tmp_path, bare)])
    with pytest.raises(DataError, match="got 1 rows and 2 difficulties"):
        difficulties_for(part, difficulties)
    (other,) = read_annotations([lines(tmp_path, {**ROW, "idx": 7}, ROW)])
    with pytest.raises(DataError, match="got none for 1 of 2, first '7'"):
        difficulties_for(other, difficulties)


def test_a_summary_never_invents_a_rate(tmp_path: Path):
    bare = {"generator_2": "ours"}
    (one,) = read_annotations([lines(tmp_path, *({**bare, "preference": p} for p in (1, 2, 2)))])
    row = summarise(one, Tables())
    assert (row.length_controlled.label, row.matched) == ("no lengths", None)
    assert math.isnan(row.length_controlled.win_rate)
    with pytest.raises(DataError, match="ours: length control needs lengths"):
        summarise(one, Tables(difficulties={"0": 0.0, "1": 0.0, "2": 0.0}))
    (few,) = read_annotations([lines(tmp_path, {**ROW, "len_1": 300})])
    row = summarise(few, Tables())
    assert row.length_controlled.label == "fewer than 10 comparisons"
    assert row.matched is None
    (flat,) = read_annotations([lines(tmp_path, *({**ROW, "idx": i} for i in range(12)))])
    assert summarise(flat, Tables()).length_controlled.label == "the length difference never varies"
    bare_rows = ({"generator_2": "ours", "preference": 1.5, "len_1": i, "len_2": i % 3} for i in range(12))
    (unnamed,) = read_annotations([lines(tmp_path, *bare_rows)])
    short = summarise(unnamed, Tables(difficulties={str(i): 0.1 * i for i in range(13)})).length_controlled
    assert (short.label, math.isnan(short.win_rate)) == ("no idx", True)
    whole = summarise(unnamed, Tables(difficulties={str(i): 0.1 * i for i in range(12)})).length_controlled
    assert whole.label == "no gamed prior"
    (silent,) = read_annotations([lines(tmp_path, {**ROW, "preference": None})])
    with pytest.raises(DataError, match="ours: win_rate needs at least one judged comparison"):
        summarise(silent, Tables())


def test_tables_that_exclude_each_other_are_refused():
    with pytest.raises(DataError, match="difficulties, got none"):
        Tables(weights={})
