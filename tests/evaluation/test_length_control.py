"""Length-controlled win rates: AlpacaEval's published ones, a plain refit's, scikit-learn's, the bootstrap's."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neftune.errors import DataError
from neftune.evaluation.alpaca_eval_tables import read_difficulties
from neftune.evaluation.annotations import difficulties_for
from neftune.evaluation.length_control import length_controlled_fits, length_controlled_win_rate
from neftune.evaluation.winrate import matched_length_win_rate, win_rate
from tests.published_boards import judged

PAIR = ("alpaca-7b", "alpaca-7b-neft")


def test_length_controlled_refits_come_near_the_published_ones(shared):
    folder = shared / "data" / "alpaca_eval"
    difficulty, models = read_difficulties(folder / "derived_instruction_difficulty.csv"), judged(folder, "ae2")
    checks = [check for check in json.loads((folder / "lc_check.json").read_text()) if check["model"] in models]
    assert len(checks) >= 50
    errors = []
    for check in checks:
        one = models[check["model"]]
        hardness = difficulties_for(one, difficulty)
        got = length_controlled_win_rate(one.preferences, one.model_lengths, one.baseline_lengths, hardness)
        assert got.win_rate == pytest.approx(check["lc_refit"], abs=0.01)
        weights = (-got.length_weight, got.difficulty_weight, got.model_weight)
        assert weights == pytest.approx(check["refit_weights"], abs=0.03)
        assert not got.is_separated
        assert got.label == "no gamed prior"
        fast = length_controlled_fits(one.preferences[None], one.model_lengths - one.baseline_lengths, hardness)
        assert fast[0] == pytest.approx(got.win_rate, abs=1e-5)
        errors.append(abs(got.win_rate - check["published_lc"]))
    assert np.median(errors) <= 1.0


def test_the_authors_gain_shrinks_at_equal_length(shared):
    models = judged(shared / "data" / "alpaca_eval", "ae1")
    sides = [(one.preferences, one.model_lengths, one.baseline_lengths) for one in map(models.get, PAIR)]
    raw, noisy_raw = (win_rate(side[0]).win_rate for side in sides)
    controlled, noisy_controlled = (length_controlled_win_rate(*side).win_rate for side in sides)
    assert noisy_raw - raw == pytest.approx(35.2, abs=0.05)
    assert noisy_controlled - controlled < 20


def test_too_little_data_and_wrong_data_are_named():
    with pytest.raises(DataError, match="needs more than 2 judged comparisons, got 0"):
        length_controlled_win_rate([None, None], [1, 1], [2, 2])
    with pytest.raises(DataError, match="got 3, 2 and 3"):
        length_controlled_win_rate([1, 2, 1], [1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="finite and >= 0"):
        length_controlled_win_rate([1, 2, 1], [1, 2, math.nan], [1, 2, 3])
    with pytest.raises(DataError, match="finite and >= 0"):
        length_controlled_win_rate([1, 2, 1], [1, 2, -1], [1, 2, 3])
    with pytest.raises(DataError, match=r"one finite number per comparison \(3\), got 2"):
        length_controlled_win_rate([1, 2, 1], [1, 2, 2], [1, 2, 3], difficulty=[0, 1])
    with pytest.raises(DataError, match="got 30 for each of 4: length and model cannot be told apart"):
        length_controlled_win_rate([1, 2, 1, 2], [40, 50, 60, 70], [10, 20, 30, 40])
    with pytest.raises(DataError, match=r"shape \(B, n\), got \(3,\)"):
        length_controlled_fits(np.array([1.0, 2, 1]), np.array([1.0, 2, 3]))
    with pytest.raises(DataError, match=r"delta_lengths must be finite, of shape \(1, 3\)"):
        length_controlled_fits(np.array([[1.0, 2, 1]]), np.array([1.0, 2]))


@pytest.mark.parametrize("no_length", [math.nan, math.inf, -1])
def test_lengths_of_a_comparison_without_a_verdict_do_not_matter(no_length):
    judged = ([1, 2, 1, 2, 2], [10, 20, 30, 40, 55], [12, 20, 30, 30, 50])
    more = [[*given, last] for given, last in zip(judged, (None, no_length, no_length), strict=True)]
    assert length_controlled_win_rate(*more) == length_controlled_win_rate(*judged)
    assert matched_length_win_rate(*more).win_rate == matched_length_win_rate(*judged).win_rate


def test_equal_lengths_give_the_raw_rate():
    preferences = [2] * 30 + [1] * 50 + [1.5] * 20
    got = length_controlled_win_rate(preferences, [7] * 100, [7] * 100)
    assert got.win_rate == pytest.approx(win_rate(preferences).win_rate, abs=1e-3)
    assert got.standard_error == pytest.approx(win_rate(preferences).standard_error, rel=1e-2)
    assert not got.is_extrapolated


def test_a_bias_for_length_is_taken_out():
    rng = np.random.default_rng(0)
    delta = rng.normal(150, 200, 20_000)
    chance = 1 / (1 + np.exp(-(2 * np.tanh(delta / delta.std(ddof=1)) - 0.3)))
    preferences = 1.0 + (rng.random(delta.size) < chance)
    got = length_controlled_win_rate(preferences, 1000 + delta, np.full(delta.size, 1000.0))
    assert win_rate(preferences).win_rate > 60
    assert got.win_rate == pytest.approx(100 / (1 + math.exp(0.3)), abs=1.5)
    assert got.length_weight == pytest.approx(2, abs=0.1)


def test_data_without_exception_are_flagged_and_finite():
    lengths = np.arange(50.0)
    won = length_controlled_win_rate([2] * 50, lengths, [25.0] * 50)
    assert won.is_separated
    assert won.win_rate > 99
    assert math.isnan(won.standard_error)
    by_length = length_controlled_win_rate(np.where(lengths > 24.5, 2, 1), lengths, [24.5] * 50)
    assert by_length.is_separated
    assert by_length.win_rate == pytest.approx(50, abs=1)
    always_longer = length_controlled_win_rate([1, 2, 2, 1, 2], [9, 8, 7, 6, 5], [1] * 5)
    assert always_longer.is_extrapolated
    assert not always_longer.is_separated


def test_standard_errors_agree_with_the_bootstrap():
    rng = np.random.default_rng(1)
    n = 600
    hardness, delta = rng.normal(0, 1, n), rng.normal(40, 100, n)
    chance = 1 / (1 + np.exp(-(np.tanh(delta / 100) + hardness - 0.2)))
    preferences = 1.0 + (rng.random(n) < chance)
    drawn = rng.integers(0, n, (1000, n))
    for difficulty in (None, hardness):
        got = length_controlled_win_rate(preferences, 500 + delta, np.full(n, 500.0), difficulty)
        redrawn = None if difficulty is None else difficulty[drawn]
        spread = length_controlled_fits(preferences[drawn], delta[drawn], redrawn).std(ddof=1)
        assert got.standard_error == pytest.approx(spread, rel=0.1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(8, 60), has_difficulty=st.booleans(), fractions=st.booleans())
def test_fits_in_bulk_equal_the_single_ones(seed, n, has_difficulty, fractions):
    rng = np.random.default_rng(seed)
    preferences = 1 + rng.random((3, n)) if fractions else rng.choice([1, 1.5, 2], (3, n))
    preferences[rng.random((3, n)) < 0.1] = np.nan
    lengths, baseline = rng.integers(0, 400, (3, n)).astype(float), rng.integers(0, 400, n).astype(float)
    difficulty = rng.normal(size=n) if has_difficulty else None
    got = length_controlled_fits(preferences, lengths - baseline, difficulty)
    for row in range(3):
        single = length_controlled_win_rate(preferences[row], lengths[row], baseline, difficulty)
        assert got[row] == pytest.approx(single.win_rate, abs=1e-3)


def test_fits_in_bulk_give_nan_where_a_single_one_is_refused():
    preferences = np.array([[1, 2, 1, 2], [1, np.nan, np.nan, 2], [1, 2, 2, 1]])
    delta = np.array([[5.0, 5, 5, 5], [1, 2, 3, 4], [1, -2, 3, 4]])
    got = length_controlled_fits(preferences, delta)
    assert np.isnan(got).tolist() == [True, True, False]
    assert np.isnan(length_controlled_fits(np.full((2, 3), np.nan), np.arange(3.0))).all()


def test_fits_in_bulk_stay_finite_on_separated_data():
    delta = np.arange(-20.0, 20)
    preferences = np.stack([np.full(40, 2.0), np.full(40, 1.0), np.where(delta > 3, 2.0, 1.0)])
    got = length_controlled_fits(preferences, delta)
    assert np.isfinite(got).all()
    assert got[0] > 99 > 1 > got[1]
