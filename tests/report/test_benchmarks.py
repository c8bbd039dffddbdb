"""Benchmarks in the report, in a terminal and as data."""

import json

from neftune.report.benchmarks import benchmarks_table
from neftune.report.evidence import gather
from neftune.report.page import write_report
from neftune.report.summary import WIDTH, summary_data, terminal_summary
from tests.analysis.test_benchmark_effects import with_benchmark
from tests.synthetic import make_study

RIGHT = {"baseline": 0.5, "nsr=0.3": 0.5, "nsr=1.0": 0.4}


def study():
    return with_benchmark(make_study(arms=("nsr=0.3", "nsr=1.0"), control=False), RIGHT)


def test_the_table_says_what_was_lost_and_what_was_shown_to_survive():
    table = benchmarks_table(gather(study()))
    assert [group.heading for group in table.groups] == ["world 0", "world 1"]
    same, worse = table.groups[0].rows
    assert [cell.text for cell in same[:3]] == ["ARC-Challenge", "nsr=0.3", "46.1%"]
    assert (same[4].tone, worse[4].tone) == ("", "bad")
    assert worse[4].text.startswith("\N{MINUS SIGN}")
    assert same[5].text.startswith("± ")
    assert same[7].text == "3 × 400"


def test_a_study_without_benchmarks_has_no_such_section(tmp_path):
    plain = make_study()
    assert benchmarks_table(gather(plain)) is None
    assert 'id="benchmarks"' not in write_report(plain, tmp_path / "a.html").read_text()
    assert "Benchmarks" not in terminal_summary(plain)


def test_page_terminal_and_data_have_them(tmp_path):
    result = study()
    assert 'id="benchmarks"' in write_report(result, tmp_path / "a.html").read_text()
    text = terminal_summary(result)
    assert "Benchmarks, world 0: arm minus baseline" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    data = json.loads(json.dumps(summary_data(result), allow_nan=False))
    assert [(one["benchmark"], one["arm"], one["block"]) for one in data["benchmarks"]] == [
        ("arc_challenge", arm, block) for block in ("world=0", "world=1") for arm in ("nsr=0.3", "nsr=1.0")
    ]
