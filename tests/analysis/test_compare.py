"""Two runs or two output files, prompt by prompt."""

import json
from dataclasses import asdict

import pytest

from neftune.analysis.compare import compare_outputs, compare_runs
from neftune.errors import DataError
from tests.synthetic import BASELINE, make_study


def outputs(num=6, words="one two three four", **extra):
    return [{"instruction": f"question {i}", "output": words + " five" * i, **extra} for i in range(num)]


def row(comparison, metric, part="outputs"):
    (found,) = [r for r in comparison.rows if (r.part, r.metric) == (part, metric)]
    return found


@pytest.fixture(scope="module")
def runs():
    study = make_study()
    return {(r.arm, r.block, r.seed): study.records[r.run_id] for r in study.planned}


def test_two_runs_are_compared_on_every_part(runs):
    comparison = compare_runs(runs[BASELINE, "world=0", 0], runs["nsr=0.6", "world=0", 0])
    assert {r.part for r in comparison.rows} == {"train", "heldout", "test"}
    loss = row(comparison, "loss", "test")
    assert loss.difference == pytest.approx(loss.b - loss.a)
    assert loss.low < loss.difference < loss.high
    assert "Settings that differ (A -> B): noise.nsr 0.0 -> 0.6." in comparison.notes
    assert any("not over training runs" in note for note in comparison.notes)


def test_a_run_against_itself_differs_in_nothing(runs):
    run = runs[BASELINE, "world=0", 0]
    comparison = compare_runs(run, run)
    assert all(r.difference == pytest.approx(0) for r in comparison.rows)
    assert "Both runs have the same settings." in comparison.notes


def test_runs_on_other_examples_are_refused(runs):
    with pytest.raises(DataError, match="none in common"):
        compare_runs(runs[BASELINE, "world=0", 0], runs[BASELINE, "world=1", 0])


def test_the_table_is_aligned_and_the_result_is_json(runs):
    comparison = compare_runs(runs[BASELINE, "world=0", 0], runs["nsr=0.6", "world=0", 0])
    lines = comparison.table().splitlines()
    assert lines[0].split()[:5] == ["part", "metric", "A", "B", "B"]
    assert len(lines) == 1 + len(comparison.rows) + 1 + len(comparison.notes)
    assert "NaN" not in json.dumps(asdict(comparison))


def test_output_files_are_joined_by_instruction_in_any_order():
    a, b = outputs(), outputs(words="one two three four five six")
    comparison = compare_outputs(a, b[::-1])
    words = row(comparison, "words")
    assert (words.a, words.b, words.difference) == (6.5, 8.5, 2.0)
    assert words.num_examples == 6
    assert {r.metric for r in comparison.rows}.isdisjoint({"rouge_l", "bleu", "verbatim", "win_rate"})
    assert any("No win rate" in note for note in comparison.notes)


def test_references_and_quality_are_used_where_every_row_has_them():
    a = outputs(reference="one two three four", quality=1)
    b = [{**item, "quality": 2 if i else 0} for i, item in enumerate(outputs(words="one", reference="one two"))]
    comparison = compare_outputs(a, b)
    assert row(comparison, "win_rate").b == pytest.approx(100 * 5 / 6)
    assert row(comparison, "verbatim").a == pytest.approx(1 / 6)
    assert row(comparison, "rouge_l").b < 1
    assert not any(r.metric == "win_rate" for r in compare_outputs(a, outputs()).rows)


def test_the_input_is_part_of_the_question():
    a = [{"instruction": "Translate.", "input": word, "output": word} for word in ("cat", "dog")]
    assert row(compare_outputs(a, a[::-1]), "words").num_examples == 2


def test_files_that_answer_other_instructions_are_refused():
    with pytest.raises(DataError, match=r"5 in common and 1 only in A \(the first: 'question 0'\)"):
        compare_outputs(outputs(), outputs()[1:])
    with pytest.raises(DataError, match=r"1 only in A .*, 1 only in B"):
        compare_outputs(outputs(), [*outputs()[1:], {"instruction": "new", "output": ""}])


def test_a_second_answer_is_refused():
    with pytest.raises(DataError, match="second answer in B, row 7, to 'question 0'"):
        compare_outputs(outputs(), [*outputs(), outputs()[0]])


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="at least two instructions"):
        compare_outputs(outputs(1), outputs(1))
