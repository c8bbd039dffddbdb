"""What the report says of factorials and of doses."""

import itertools
import math

import pytest

from neftune.report.dose_response import best_sentence, dose_figure, dose_sentences, dose_table
from neftune.report.evidence import gather
from neftune.report.factorial import effect_name, factorial_forest, factorial_table, interaction_figure
from neftune.report.sections import sections
from neftune.report.summary import terminal_summary
from tests.report.design_studies import LOST, dose_study, factorial_study, staged_study
from tests.synthetic_designs import make_design, product

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:plotly")


def rows_of(table):
    return {group.heading: {row[0].text: [cell.text for cell in row] for row in group.rows} for group in table.groups}


def valid(figure):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for panel in figure.panels:
        graph_objects.Figure(panel.spec)
    return figure


def test_the_table_has_every_main_effect_and_interaction_with_what_could_have_been_seen():
    evidence = gather(factorial_study())
    rows = rows_of(factorial_table(evidence))
    assert len(rows) == 2
    for heading, block in zip(rows, ("world=0", "world=1"), strict=True):
        one = next(f for f in evidence.explored.factorials if f.block == block)
        assert list(rows[heading]) == [effect_name(effect) for effect in one.effects]
        name, shown, _, _, seen, settings, n = rows[heading]["alpha 5 against 0"]
        assert name
        assert shown.split(" ")[0].replace("−", "-") == f"{one.effects[0].estimate:.3f}"
        assert float(seen) == pytest.approx(one.effects[0].detectable, abs=5e-4)
        assert (settings, n) == ("3 of 4", "3 × 40")
    assert LOST in " ".join(factorial_table(evidence).notes)


def test_a_mark_of_the_forest_is_where_its_effect_is():
    evidence = gather(factorial_study())
    figure = valid(factorial_forest(evidence))
    one = evidence.explored.factorials[0]
    marks = figure.panels[0].spec["data"]
    assert [mark["x"][0] for mark in marks] == pytest.approx([e.estimate for e in reversed(one.effects)])
    assert {mark["marker"]["symbol"] for mark in marks} == {"circle", "diamond-open"}
    first = next(mark for mark in marks if mark["x"][0] == one.effects[0].estimate)
    assert first["x"][0] + first["error_x"]["array"][0] == pytest.approx(one.effects[0].high)


def test_lines_of_two_knobs_are_means_over_complete_settings_of_the_third():
    evidence = gather(factorial_study())
    figure = valid(interaction_figure(evidence))
    panel = next(p for p in figure.panels if p.title.startswith("alpha and weight decay"))
    means = evidence.explored.factorials[0].means
    # The arm that failed has dropout 0.3, so only dropout 0 has all four combinations.
    assert panel.spec["data"][1]["y"] == pytest.approx([means["0.0", "0.1", "0.0"], means["5.0", "0.1", "0.0"]])


def test_the_dose_table_and_figure_have_every_dose_with_interval_band_and_ratio():
    evidence = gather(dose_study())
    (rows,) = rows_of(dose_table(evidence)).values()
    response = evidence.explored.dose_responses[0]
    assert list(rows) == ["0", "0.1", "1", "10", "100"]
    assert [row[5] for row in rows.values()].count("best seen") == 1
    assert {row[5] for name, row in rows.items() if name in ("1", "10")} == {"best seen", "yes"}
    assert rows["0"][3:5] == ["", ""]
    assert rows["10"][1] == "0.909"
    band, line, *marks = valid(dose_figure(evidence)).panels[0].spec["data"]
    noisy = response.doses[1:]
    assert line["y"] == pytest.approx([dose.estimate for dose in noisy])
    assert band["y"][: len(noisy)] == pytest.approx([dose.band_low for dose in noisy])
    assert line["x"] == pytest.approx([math.log10(dose.dose) for dose in noisy])
    assert marks[0]["x"][0] < line["x"][0]
    assert [mark["marker"]["symbol"].endswith("open") for mark in marks] == [True, True, False, False, True]


def test_the_sentence_names_the_doses_that_cannot_be_told_apart():
    (said,) = dose_sentences(gather(dose_study()))
    assert "1 to 10 cannot be told apart" in said
    assert said in " ".join(section.lead[0] for section in sections(gather(dose_study())) if section.id == "dose")
    assert "1 to 10 cannot be told apart" in " ".join(terminal_summary(dose_study()).split())


def test_where_no_noise_may_be_the_best_the_sentence_says_so():
    settings = product({"noise.alpha": [0, 1.0, 10.0, 100.0]})
    level = {0: 0.0, 1.0: -0.03, 10.0: 0.0, 100.0: 2.0}
    study = make_design(settings, lambda s: level[s["noise.alpha"]], seeds=range(5))
    (response,) = gather(study).explored.dose_responses
    said = best_sentence(response)
    assert response.best.dose != 0
    assert "no noise and 1 to 10 cannot be told apart, so that any noise helps is not shown" in said
    flat = make_design(settings, lambda s: 0.0, seeds=range(5))
    assert "No two of the 4 doses can be told apart" in best_sentence(gather(flat).explored.dose_responses[0])
    worse = make_design(settings, lambda s: 3.0 * bool(s["noise.alpha"]), seeds=range(5))
    assert "best without noise" in best_sentence(gather(worse).explored.dose_responses[0])
    assert "every other dose is clearly worse" in best_sentence(gather(worse).explored.dose_responses[0])


def test_a_staged_study_shows_the_doses_of_the_runs_that_chose():
    evidence = gather(staged_study())
    (first, *_) = evidence.explored.dose_responses
    assert (first.part, len(first.doses)) == ("heldout", 7)
    assert evidence.explored.design is None


def test_a_study_of_two_arms_has_neither():
    study = make_design(product({"noise.alpha": [0, 5.0]}), lambda _: 0.0)
    shown = {section.id for section in sections(gather(study))}
    assert not shown & {"dose", "factorial"}


def test_labels_of_doses_do_not_overlap():
    doses = (0, 0.03, 0.0646, 0.139, 0.3, 0.44, 0.646, 0.948, 1.39, 3.0)
    study = make_design(product({"noise.nsr": doses}), lambda s: s["noise.nsr"] / 10, seeds=range(3))
    axis = dose_figure(gather(study)).panels[0].spec["layout"]["xaxis"]
    gaps = [b - a for a, b in itertools.pairwise(axis["tickvals"])]
    assert min(gaps) >= (axis["tickvals"][-1] - axis["tickvals"][0]) / 6
    assert (axis["ticktext"][0], axis["ticktext"][-1]) == ("0", "3")
    assert len(doses) > len(gaps) > 3
