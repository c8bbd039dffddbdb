"""Raw win rates against AlpacaEval's published numbers, and their conventions."""

import json
import math

import numpy as np
import pytest

from neftune.errors import DataError
from neftune.evaluation.winrate import (
    discrete_win_rate,
    matched_length_win_rate,
    preferences_from_quality,
    win_rate,
)
from tests.published_boards import board, judged


@pytest.mark.parametrize(("version", "num_published"), [("ae1", 39), ("ae2", 51)])
def test_raw_win_rates_equal_the_published_ones(shared, version, num_published):
    folder = shared / "data" / "alpaca_eval"
    published, models = board(folder, version), judged(folder, version)
    checks = {check["model"]: check for check in json.loads((folder / "winrate_check.json").read_text())[version]}
    assert checks.keys() == models.keys()
    assert len(models.keys() & published.keys()) == num_published
    for model, one in models.items():
        got, check = win_rate(one.preferences), checks[model]
        assert (got.win_rate, got.standard_error) == pytest.approx(
            (check["win_rate"], check["standard_error"]), abs=1e-6
        )
        assert got.num_total == check["n_total"]
        assert got.num_total + got.num_unparsed == check["rows"]
        if model in published:
            row = published[model]
            assert got.win_rate == pytest.approx(float(row["win_rate"]), abs=1e-6)
            assert got.standard_error == pytest.approx(float(row["standard_error"]), abs=1e-6)
            counts = [int(row[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total")]
            assert [got.num_wins, got.num_losses, got.num_draws, got.num_total] == counts
            discrete = discrete_win_rate(one.preferences).win_rate
            assert discrete == pytest.approx(float(row["discrete_win_rate"]), abs=1e-6)


def test_a_decided_verdict_counts_whole():
    got = discrete_win_rate([1.6, 1.4, 1.1, 1.5, 0, None])
    assert (got.win_rate, got.num_wins, got.num_losses, got.num_draws) == (40.0, 1, 2, 2)
    assert got.num_unparsed == 1
    assert win_rate([1.6, 1.4, 1.1, 1.5, 0, None]).win_rate == pytest.approx(42)


def test_conventions_of_preferences():
    got = win_rate([1, 2, 2, 0, 1.5, None, math.nan])
    assert (got.win_rate, got.num_wins, got.num_losses, got.num_draws) == (60.0, 2, 1, 2)
    assert (got.num_total, got.num_unparsed) == (5, 2)
    shares = np.array([0, 1, 1, 0.5, 0.5])
    assert got.standard_error == pytest.approx(100 * shares.std(ddof=1) / np.sqrt(5))
    assert win_rate([1.7]).win_rate == pytest.approx(70)
    assert math.isnan(win_rate([2]).standard_error)


def test_quality_becomes_preferences():
    assert preferences_from_quality([1, 2, 3], [2, 2, 2]) == [1.0, 1.5, 2.0]
    assert math.isnan(preferences_from_quality([math.nan], [1.0])[0])
    with pytest.raises(DataError, match="got 1 and 2"):
        preferences_from_quality([1], [1, 2])


@pytest.mark.parametrize("empty", [[], [None, None], np.array([np.nan])])
def test_no_data_is_an_error_never_zero(empty):
    with pytest.raises(DataError, match="at least one judged comparison"):
        win_rate(empty)
    with pytest.raises(DataError, match="at most 10%"):
        matched_length_win_rate(empty, [1] * len(empty), [1] * len(empty))


def test_wrong_input_is_named():
    with pytest.raises(DataError, match=r"between 1 .* and 2 .*, got 3 \(and 1 more"):
        win_rate([1, 3, -1])


@pytest.mark.parametrize("wrong", [["x"], None, [1, [2]], 3, np.array(["x"])])
def test_preferences_that_are_no_numbers_are_named(wrong):
    with pytest.raises(DataError, match="Preferences must be numbers from 1 to 2"):
        win_rate(wrong)


def test_pairs_of_matched_length():
    got = matched_length_win_rate([2, 2, 1, None], [100, 95, 300, 100], [100, 100, 100, 100])
    assert (got.win_rate, got.num_total, got.num_unparsed) == (100.0, 2, 1)
    with pytest.raises(DataError, match="at most 10%, got none among 2"):
        matched_length_win_rate([2, 1], [10, 20], [20, 10])
