import re

import pytest

from neftune.report.comparison import COLUMNS, paper_table, replication_table
from neftune.report.metrics import LABELS, metric_of
from neftune.report.paper import DIRECTIONS, PUBLISHED, REPLICATIONS


def test_the_headline_numbers_are_the_papers():
    found = {(p.metric, p.setting, p.judge, p.alpha): (p.without, p.with_noise) for p in PUBLISHED}
    assert found["win_rate", "LLaMA-2-7B, Alpaca", "GPT-4", "5"] == (29.79, 64.69)
    assert found["lc_win_rate", "LLaMA-1-7B, Alpaca", "GPT-4", "10"] == (26.29, 31.61)
    assert found["characters", "LLaMA-2-7B, Alpaca", "", "5"] == (375.22, 1061.89)


def test_the_replications_mean_gain_is_the_one_in_its_caption():
    gains = [entry.with_noise - entry.without for entry in REPLICATIONS]
    assert (len(gains), sum(gain > 0 for gain in gains)) == (7, 6)
    assert f"{sum(gains) / len(gains):+.1f} points" in replication_table().caption


def test_every_published_number_stands_in_the_reference(shared):
    text = (shared / "reference" / "paper.md").read_text(encoding="utf-8")
    for entry in (*PUBLISHED, *REPLICATIONS):
        for value in (entry.without, entry.with_noise):
            assert re.search(rf"(?<!\d){re.escape(f'{value:g}')}0?(?!\d)", text), entry


@pytest.mark.parametrize("entry", [*PUBLISHED, *REPLICATIONS, *DIRECTIONS])
def test_every_number_is_labelled(entry):
    assert entry.metric in LABELS or metric_of(entry.metric).label
    assert entry.source


def test_ours_stands_first_under_each_metric_with_its_interval(evidence):
    table = paper_table(evidence)
    assert [group.heading.split(",")[0] for group in table.groups][:1] == ["win rate against references"]
    for group in table.groups:
        ours, theirs = group.rows[0], group.rows[-1]
        assert ours[0].arm is not None
        assert theirs[0].arm is None
        assert "[" in ours[6].text
        assert "[" not in theirs[6].text
        assert {len(row) for row in group.rows} == {len(COLUMNS)}
