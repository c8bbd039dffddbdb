"""Which data chose and which judged, what was tuned, and what confirmation kept."""

import json

import pytest

from neftune.analysis.effects import find_effects, study_effects
from neftune.report.confirmation import confirmation_table, confirmations
from neftune.report.evidence import gather
from neftune.report.headline import merged, warnings
from neftune.report.page import write_report
from neftune.report.provenance import missing_table
from neftune.report.stages import stages_table
from neftune.report.summary import summary_data, terminal_summary
from neftune.report.tuning import trials, tuning_tables
from tests.report.design_studies import dose_study, staged_study
from tests.report.test_page import Structure
from tests.synthetic import make_study


@pytest.fixture(scope="module")
def evidence():
    return gather(staged_study())


def texts(table):
    return [[cell.text for cell in row] for group in table.groups for row in group.rows]


def test_every_stage_says_what_it_decided_on_which_data(evidence):
    tune, main, confirm = texts(stages_table(evidence))
    assert tune[:3] == ["tuning", "every arm's nuisance knobs, by loss", "held-out"]
    assert (main[0], main[2], main[4]) == ("comparing arms", "held-out", "0, 1, 2")
    assert "test" not in main[3]
    assert "test" not in tune[3]
    assert (confirm[0], confirm[2], confirm[4]) == ("confirming", "test", "10, 11, 12, 13")
    assert "test" in confirm[3]
    assert tune[5:] == ["80 of 84", "4"]


def test_one_set_of_runs_that_chooses_and_judges_is_said_to():
    (row,) = texts(stages_table(gather(make_study())))
    assert row[2] == "held-out; test"
    assert "One set of runs chose and judged" in stages_table(gather(make_study())).notes[0]


def test_stages_to_come_are_announced(tmp_path):
    study = staged_study(until="confirm")
    assert any("Still to come" in warning for warning in warnings(gather(study)))
    assert [row[5] for row in texts(stages_table(gather(study)))][-1] == "to come"
    html = write_report(study, tmp_path / "report.html").read_text(encoding="utf-8")
    assert Structure(html).open == []
    json.dumps(summary_data(study), allow_nan=False)


def test_trials_have_the_mean_of_their_runs_and_the_chosen_ones_are_those_that_ran_on(evidence):
    found = trials(evidence)
    study = evidence.study
    assert len(found) == 2 * 7 * 3
    one = next(t for t in found if t.arm == "alpha=10" and t.setting == {"train.learning_rate": 3e-4})
    runs = [r for r in study.planned if (r.stage, r.block, r.arm) == ("tune", one.block, one.arm)]
    runs = [r for r in runs if r.nuisance == one.setting]
    levels = [sum(v) / len(v) for r in runs for v in [study.records[r.run_id].scores["heldout"].values["loss"]]]
    assert one.score == pytest.approx(sum(levels) / len(levels))
    assert (one.num_seeds, one.num_planned) == (2, 2)
    chosen = {(t.block, t.arm): t.setting for t in found if t.is_chosen}
    assert chosen == {(r.block, r.arm): r.nuisance for r in study.planned if r.stage == "main"}


def test_a_choice_at_the_edge_of_the_grid_is_marked_and_one_inside_is_not(evidence):
    edges = {t.arm: t.at_edge for t in trials(evidence) if t.is_chosen and t.block == "world=0"}
    assert edges["baseline"] == ("train.learning_rate",)
    assert edges["alpha=10"] == ()
    given, tried = tuning_tables(evidence)
    assert "the best of 3 settings by loss" in given.caption
    notes = {row[0]: row[-1] for row in texts(given)}
    assert notes["baseline"] == "at the edge of what was tried: learning_rate"
    failed = [row for row in texts(tried) if row[0] == "alpha=100" and "0.001" in row[1]]
    assert all(row[-1] == "2 of 2 failed" and row[2] == "–" for row in failed)
    assert len(failed) == 2


def test_the_chosen_arm_stands_beside_itself_on_fresh_seeds(evidence):
    found = confirmations(evidence)
    assert [one.block for one in found] == ["world=0", "world=1"]
    explored = study_effects(evidence.explored.result)
    for one in found:
        (chosen,) = find_effects(explored, block=one.block, arm=one.arm, part="heldout", metric="loss")
        assert (one.chosen.estimate, one.chosen.seeds) == (chosen.estimate, (0, 1, 2))
        assert one.test.seeds == one.heldout.seeds == (10, 11, 12, 13)
        assert one.test in evidence.effects
        assert (one.chosen.part, one.heldout.part, one.test.part) == ("heldout", "heldout", "test")
        assert one.kept == pytest.approx(one.heldout.estimate / chosen.estimate)
        assert one.chosen.estimate == min(
            e.estimate for e in find_effects(explored, block=one.block, part="heldout", metric="loss")
        )
    (first, _) = texts(confirmation_table(evidence))
    assert first[4] == f"{100 * found[0].kept:.0f}"


def test_without_confirmation_and_tuning_there_is_none():
    evidence = gather(dose_study())
    assert confirmation_table(evidence) is None
    assert tuning_tables(evidence) is None


def test_failures_of_every_stage_are_listed(evidence):
    rows = texts(missing_table(evidence.overview, evidence.study))
    assert len(rows) == 4
    assert {row[1] for row in rows} == {"tuning"}
    assert any("4 runs failed" in warning for warning in warnings(evidence))
    assert "tuning, alpha=100, world 0, seed 50: DivergedError" in terminal_summary(staged_study())


def test_notes_that_say_the_same_of_several_are_one():
    notes = ["a: it failed.", "alone.", "b: it failed.", "c: it ran."]
    assert merged(notes) == ("a, b: it failed.", "alone.", "c: it ran.")
    assert merged([f"{i}: it failed." for i in range(9)]) == ("0, 1, 2, 3, 4, 5 and 3 more: it failed.",)


def test_the_page_of_a_staged_study_holds_together(tmp_path, evidence):
    html = write_report(staged_study(), tmp_path / "report.html").read_text(encoding="utf-8")
    structure = Structure(html)
    assert structure.open == []
    assert len(structure.ids) == len(set(structure.ids))
    sections = [attrs["id"] for tag, attrs in structure.tags if tag == "section"]
    assert sections[:3] == ["effects", "dose", "stages"]
    assert "Nothing here was tuned" not in html
    assert "The runs that judge. The other 126 chose" in html


def test_the_data_have_what_the_page_has(evidence):
    data = json.loads(json.dumps(summary_data(staged_study()), allow_nan=False))
    assert [one["stage"] for one in data["stages"]] == ["tune", "main", "confirm"]
    assert data["stages"][0]["failed"] == 4
    assert len(data["tuning"]) == 42
    assert data["confirmation"][0]["kept"] == pytest.approx(confirmations(evidence)[0].kept)
    assert [len(one["doses"]) for one in data["dose_response"]] == [7, 7]
    text = terminal_summary(staged_study())
    assert "Which data chose, which judged:" in text
    assert "when chosen (held-out)" in " ".join(text.split())
