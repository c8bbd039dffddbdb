import math
import re
from pathlib import Path

import pytest

from neftune.report.evidence import gather
from neftune.report.figures import figures
from neftune.report.forest import BAD, effects_table, forest, kinds
from neftune.report.overview import ARM_COLOURS, BASELINE_COLOUR, CONTROL_COLOURS
from tests.synthetic_designs import make_design, product

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:plotly")


def _panels(evidence):
    drawn = [figures[name](evidence) for name in figures] + [forest(evidence, kind) for kind in kinds(evidence)]
    return [panel for figure in drawn if figure for panel in figure.panels]


def test_every_panel_is_valid_plotly(evidence):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for panel in _panels(evidence):
        graph_objects.Figure(panel.spec)


def test_panels_have_unique_ids_and_say_in_words_what_they_show(evidence):
    panels = _panels(evidence)
    assert len({panel.id for panel in panels}) == len(panels) > 10
    assert all(len(panel.summary) > 20 for panel in panels)


def test_arms_keep_their_colour_in_every_panel(evidence):
    known = {light for light, _ in (BASELINE_COLOUR, *CONTROL_COLOURS, *ARM_COLOURS)}
    by_name: dict[str, set[str]] = {}
    for panel in _panels(evidence):
        for trace in panel.spec["data"]:
            colour = trace.get("line", trace.get("marker", {})).get("color") or trace["marker"]["color"]
            assert colour in known
            arm = trace.get("name", "").split(",")[0]
            by_name.setdefault(arm, set()).add(colour)
    assert all(len(colours) == 1 for name, colours in by_name.items() if name)


def test_a_mark_is_where_its_effect_is(evidence):
    kind = kinds(evidence)[0]
    panel = next(p for p in forest(evidence, kind).panels if p.id == "forest-lc_win_rate")
    effects = [e for e in evidence.effects if (e.part, e.metric) == ("test", "lc_win_rate")]
    marks = {round(trace["x"][0], 9): trace for trace in panel.spec["data"]}
    for effect in effects:
        trace = marks[round(effect.estimate, 9)]
        error = trace["error_x"]
        assert trace["x"][0] + error["array"][0] == pytest.approx(effect.high)
        assert trace["x"][0] - error["arrayminus"][0] == pytest.approx(effect.low)


def test_harm_is_shaded_from_the_tolerance_on(evidence):
    panels = {panel.id: panel for panel in _panels(evidence)}
    closed = next(s for s in panels["forest-closed_correct"].spec["layout"]["shapes"] if s.get("fillcolor") == BAD)
    false = next(s for s in panels["forest-false_facts"].spec["layout"]["shapes"] if s.get("fillcolor") == BAD)
    assert (closed["x0"], false["x0"]) == (pytest.approx(-5), pytest.approx(0.2))
    assert closed["x1"] < closed["x0"]
    assert false["x1"] > false["x0"]


def test_the_mean_curve_is_the_mean_of_its_seeds(evidence):
    figure = figures["losses"](evidence)
    data = figure.panels[0].spec["data"]
    baseline = [
        trace for trace in data if trace["line"]["color"] == BASELINE_COLOUR[0] and trace["line"]["dash"] == "solid"
    ]
    thin = [trace for trace in baseline if trace["line"]["width"] == 1]
    (thick,) = [trace for trace in baseline if trace["line"]["width"] > 1]
    assert len(thin) == 3
    for place, value in enumerate(thick["y"]):
        assert value == pytest.approx(sum(trace["y"][place] for trace in thin) / 3)


def test_shares_of_a_distribution_sum_to_all_answers(evidence):
    for panel in figures["overfitting"](evidence).panels:
        for trace in panel.spec["data"]:
            assert math.fsum(trace["y"]) == pytest.approx(100)


def test_every_metric_is_in_one_kind_once(evidence):
    names = [name for kind in kinds(evidence) for name in kind.metrics]
    assert len(names) == len(set(names))
    assert set(names) == set(evidence.measured)


def test_tables_have_a_cell_for_every_column(evidence):
    for kind in kinds(evidence):
        table = effects_table(evidence, kind)
        assert {len(row) for group in table.groups for row in group.rows} == {len(table.columns)}


def test_the_example_on_the_page_about_figures_draws(evidence, monkeypatch):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    monkeypatch.setattr(figures, "_entries", dict(figures))
    page = (Path(__file__).parents[2] / "docs" / "extend" / "figure.md").read_text(encoding="utf-8")
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), {})
    figure = figures["dose"](evidence)
    assert len(figure.panels[0].spec["data"]) == len(evidence.overview.runs)
    graph_objects.Figure(figure.panels[0].spec)


def test_a_row_is_as_high_as_its_arms_label():
    """Names of three lines, as a list of arms has them, do not run into each other."""
    long = make_design(
        product({"noise.nsr": (0, 0.3), "train.regularizers.attention_dropout": (0, 0.1), "train.epochs": (1, 2)}),
        lambda _: 0.0,
    )
    kind = next(one for one in kinds(gather(long)) if "loss" in one.metrics)
    (panel,) = [one for one in forest(gather(long), kind).panels if one.id == "forest-loss"]
    labels = panel.spec["layout"]["yaxis"]["ticktext"]
    most = max(label.count("<br>") + 1 for label in labels)
    assert most >= 2
    assert panel.spec["layout"]["height"] >= 13 * most * len(labels)
