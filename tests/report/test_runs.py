import math
from dataclasses import replace

import pytest

from neftune.analysis.effects import find_effects
from neftune.evaluation.length_control import length_controlled_win_rate
from neftune.evaluation.winrate import preferences_from_quality, win_rate
from neftune.report.overview import Overview
from neftune.report.runs import compared_answers, run_rows, runs_table, win_rates_against_references
from tests.synthetic import make_study


def _open(record):
    scores = record.scores["test"]
    return [i for i, example in enumerate(scores.example_ids) if record.tags[example]["half"] == "open"]


def test_win_rates_are_those_of_the_evaluation_on_open_prompts(study):
    record = next(iter(study.records.values()))
    kept = _open(record)
    quality = [[record.scores["test"].values[name][i] for i in kept] for name in ("quality", "reference_quality")]
    preferences = preferences_from_quality(*quality)
    answers = [record.answers["test"][i] for i in kept]
    lengths = [len(a.text) for a in answers], [len(a.reference) for a in answers]
    rates = win_rates_against_references(record)
    assert rates["win_rate_vs_reference"] == pytest.approx(win_rate(preferences).win_rate)
    assert rates["lc_win_rate_vs_reference"] == pytest.approx(
        length_controlled_win_rate(preferences, *lengths).win_rate, abs=1e-3
    )


def test_without_halves_every_answer_is_compared(study):
    record = next(iter(study.records.values()))
    assert len(compared_answers(record)) == len(_open(record))
    assert len(compared_answers(replace(record, tags={}))) == len(record.answers["test"])


def test_without_a_judge_there_is_no_win_rate():
    study = make_study(judge=False, sizes={"train": 4, "heldout": 4, "test": 4})
    assert win_rates_against_references(next(iter(study.records.values()))) == {}


def test_means_of_runs_agree_with_the_effects(evidence):
    effect = find_effects(evidence.effects, block="world=0", part="test", arm="nsr=0.6", metric="words")[0]
    rows = [row for row in evidence.rows if row.run.arm == "nsr=0.6" and row.run.block == "world=0"]
    assert sum(row.values["words"] for row in rows) / len(rows) == pytest.approx(effect.arm_mean)


def test_every_planned_run_has_a_row_and_failed_ones_say_so():
    overview = Overview(make_study(failed=[("nsr=0.3", "world=0", 1)], missing=[("nsr=0.6", "world=1", 2)]))
    rows = run_rows(overview)
    assert len(rows) == len(overview.result.planned) == 30
    assert sorted(row.state for row in rows if row.state != "done") == ["failed", "not run"]
    table = runs_table(overview, rows)
    widths = {len(row) for group in table.groups for row in group.rows}
    assert widths == {len(table.columns)}


def test_a_column_that_no_run_has_is_left_out():
    overview = Overview(make_study(judge=False, sizes={"train": 4, "heldout": 4, "test": 4}))
    labels = [column.label for column in runs_table(overview, run_rows(overview)).columns]
    assert "true facts" not in labels
    assert "words" in labels


def test_a_run_without_a_part_is_unknown_there():
    study = make_study(sizes={"train": 0, "heldout": 4, "test": 4})
    rows = run_rows(Overview(study))
    assert all(math.isnan(row.values["train_verbatim"]) for row in rows)
