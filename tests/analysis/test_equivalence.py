"""Equivalence: the bound is what the data can claim, its error rate what it says, and no data claim nothing."""

import math

import numpy as np
import pytest
from scipy import stats

from neftune.analysis.equivalence import seeds_equivalence, shares_equivalence
from neftune.analysis.paired_binary import compare_shares, score_interval
from neftune.analysis.statistics import paired_interval
from neftune.errors import DataError


def shares(only_arm, only_baseline, size):
    agreed = size - only_arm - only_baseline
    cells = [(0, 1)] * only_arm + [(1, 0)] * only_baseline + [(1, 1)] * agreed
    return compare_shares(*np.array(cells, dtype=float).T)


def test_the_bound_is_the_farther_end_of_the_90_percent_interval():
    found = shares_equivalence(shares(12, 5, 100))
    low, high = score_interval(12, 5, 100, confidence=0.9)
    assert (found.low, found.high, found.bound) == (low, high, max(-low, high))
    assert (found.margin, found.p_value, found.is_shown) == (None, None, False)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_margin_is_shown_exactly_where_it_is_beyond_the_bound(factor):
    pair = shares(12, 5, 100)
    found = shares_equivalence(pair, margin=factor * shares_equivalence(pair).bound)
    assert found.is_shown == (factor > 1) == (found.p_value < 0.05)
    values = np.random.default_rng(0).normal(0.1, 1, (3, 40))
    found = seeds_equivalence(values, margin=factor * seeds_equivalence(values).bound)
    assert found.is_shown == (factor > 1) == (found.p_value < 0.05)


def test_one_number_a_seed_is_the_textbooks_two_one_sided_t_tests():
    values = np.array([0.1, 0.3, -0.1, 0.2, 0.15])
    found = seeds_equivalence(values[:, None], margin=0.4)
    expected = max(
        stats.ttest_1samp(values, -0.4, alternative="greater").pvalue,
        stats.ttest_1samp(values, 0.4, alternative="less").pvalue,
    )
    assert found.p_value == pytest.approx(expected, abs=1e-9)
    assert (found.low, found.high) == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.9))
    assert (found.num_seeds, found.num_examples) == (5, 1)


def test_an_estimate_beyond_the_margin_is_far_from_shown():
    assert seeds_equivalence(np.array([[0.9], [1.1], [1.0]]), margin=0.5).p_value > 0.9


def test_no_worse_looks_at_one_side():
    better = shares_equivalence(shares(40, 5, 100), margin=0.05)
    assert better.is_no_worse
    assert not better.is_shown
    worse = shares_equivalence(shares(5, 40, 100), margin=0.05)
    assert not worse.is_no_worse


def test_a_table_of_seeds_and_examples_uses_its_own_interval():
    values = np.random.default_rng(1).normal(0, 1, (4, 30))
    expected = paired_interval(values, confidence=0.9)
    found = seeds_equivalence(values)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_differences_without_variance_bound_shares_and_nothing_else():
    nothing = np.zeros((3, 50))
    found = seeds_equivalence(nothing, is_share=True, margin=0.06)
    z2 = stats.norm.ppf(0.95) ** 2
    assert found.bound == pytest.approx(z2 / (50 + z2))
    assert (found.num_seeds, found.num_examples, found.is_shown) == (3, 50, True)
    assert found.p_value < 0.05
    unknown = seeds_equivalence(nothing, margin=0.06)
    assert math.isnan(unknown.bound)
    assert not unknown.is_shown
    assert not unknown.is_no_worse


def test_shares_at_the_margin_are_called_equivalent_in_5_percent():
    # The truth lies on the margin: calling it equivalent is the error that the 5% are about.
    for size, cells in ((300, [0.5, 0.07, 0.02, 0.41]), (1000, [0.3, 0.12, 0.09, 0.49])):
        margin = cells[1] - cells[2]
        drawn = np.random.default_rng(2).multinomial(size, cells, size=20_000)
        low, high = score_interval(drawn[:, 1], drawn[:, 2], size, confidence=0.9)
        claimed = 100 * float(((low >= -margin) & (high <= margin)).mean())
        assert 4.0 <= claimed <= 5.5


def test_seeds_at_the_margin_are_called_equivalent_in_at_most_5_percent():
    rng = np.random.default_rng(3)
    claimed = 0
    for _ in range(1500):
        values = 0.5 + 0.1 * rng.standard_normal((5, 1)) + rng.standard_normal((1, 60)) * 0.5
        claimed += seeds_equivalence(values, margin=0.5).is_shown
    assert 100 * claimed / 1500 <= 5 + 3 * 0.56


@pytest.mark.parametrize("confidence", [0.5, 0.75, 1.0, 95])
def test_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(DataError, match=r"must be in \(0.75, 1\)"):
        seeds_equivalence([[1.0, 2.0]], confidence=confidence)


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan])
def test_a_margin_must_be_above_zero(margin):
    with pytest.raises(DataError, match="margin must be above 0"):
        shares_equivalence(shares(1, 1, 10), margin=margin)
