"""Intervals: known answers, invariances, and the coverage that docs/statistics.md claims."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from neftune.analysis.statistics import (
    ONE_EXAMPLE,
    ONE_SEED,
    TWO_WAY,
    Component,
    critical_value,
    drop_undefined,
    interval_from,
    jackknife_cells,
    mean_components,
    paired_interval,
    percentile_bootstrap,
)
from neftune.errors import DataError

MATRICES = st.tuples(st.integers(2, 5), st.integers(2, 8)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=st.integers(-1000, 1000).map(lambda n: n / 100))
)


def draw(rng, seeds, examples, *, of_seed, of_example, of_cell):
    return (
        of_seed * rng.standard_normal((seeds, 1))
        + of_example * rng.standard_normal((1, examples))
        + of_cell * rng.standard_normal((seeds, examples))
    )


def same(first, second, *, shift=0.0, scale=1.0):
    assert second.estimate == pytest.approx(scale * first.estimate + shift, abs=1e-8)
    ends = sorted([scale * first.low + shift, scale * first.high + shift])
    assert [second.low, second.high] == pytest.approx(ends, abs=1e-8)


def test_one_seed_is_the_paired_t_interval_and_says_so():
    values = np.array([[0.1, -0.3, 0.7, 0.4, 0.2]])
    interval = paired_interval(values)
    expected = stats.ttest_1samp(values[0], 0)
    low, high = expected.confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.p_value == pytest.approx(expected.pvalue)
    assert interval.method == ONE_SEED
    assert "says nothing about seeds" in interval.method


def test_one_example_is_the_paired_t_interval_over_seeds():
    values = np.array([[0.1], [0.4], [0.3]])
    low, high = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    interval = paired_interval(values)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.method == ONE_EXAMPLE


def test_one_number_has_an_estimate_and_no_interval():
    interval = paired_interval([[0.5]])
    assert interval.estimate == 0.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(interval.p_value)


def test_pure_seed_differences_are_the_t_interval_over_seeds():
    by_seed = np.array([0.1, 0.5, 0.2])
    low, high = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    interval = paired_interval(np.tile(by_seed[:, None], (1, 40)))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert (interval.num_seeds, interval.num_examples, interval.method) == (3, 40, TWO_WAY)


def test_pure_example_differences_are_the_t_interval_over_examples():
    by_example = np.random.default_rng(0).normal(size=40)
    low, high = stats.ttest_1samp(by_example, 0).confidence_interval(0.95)
    interval = paired_interval(np.tile(by_example, (3, 1)))
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_components_are_those_of_the_anova_table():
    values = draw(np.random.default_rng(1), 4, 30, of_seed=0.3, of_example=1.0, of_cell=0.5)
    (between, beyond), _ = mean_components(values)
    grand = values.mean()
    ms_seed = 30 * ((values.mean(1) - grand) ** 2).sum() / 3
    ms_example = 4 * ((values.mean(0) - grand) ** 2).sum() / 29
    residual = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + grand
    ms_rest = (residual**2).sum() / (3 * 29)
    assert between == Component(pytest.approx(ms_seed / 120), 3)
    assert beyond == Component(pytest.approx((ms_example - ms_rest) / 120), 29, pytest.approx(ms_rest / 120))


def test_equal_differences_have_no_variance():
    interval = paired_interval(np.full((3, 7), 0.1))
    assert interval.low == interval.high == pytest.approx(0.1)
    assert interval.p_value == 0
    assert paired_interval(np.zeros((3, 7))).p_value == 1


def test_undefined_examples_are_dropped_and_counted():
    values = np.arange(12.0).reshape(3, 4)
    values[1, 2] = np.nan
    values[0, 3] = np.inf
    interval = paired_interval(values)
    assert (interval.num_examples, interval.num_dropped) == (2, 2)
    same(interval, paired_interval(values[:, :2]))


@pytest.mark.parametrize("empty", [np.full((3, 4), np.nan), np.empty((3, 0)), np.empty((0, 4))])
def test_no_data_is_an_error_never_zero(empty):
    with pytest.raises(DataError, match="at least one example"):
        paired_interval(empty)


def test_a_vector_is_refused():
    with pytest.raises(DataError, match=r"shape \(seeds, examples\), got \(3,\)"):
        drop_undefined([1.0, 2.0, 3.0])


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0, 95])
def test_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(DataError, match="confidence must be in"):
        paired_interval([[1.0, 2.0]], confidence=confidence)


@settings(deadline=None, max_examples=50)
@given(MATRICES, st.randoms(use_true_random=False))
def test_order_of_seeds_and_examples_does_not_matter(values, random):
    rows, columns = list(range(len(values))), list(range(values.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    same(paired_interval(values), paired_interval(values[np.ix_(rows, columns)]))


@settings(deadline=None, max_examples=50)
@given(MATRICES, st.floats(-100, 100))
def test_a_shift_moves_the_interval(values, shift):
    same(paired_interval(values), paired_interval(values + shift), shift=shift)


@settings(deadline=None, max_examples=50)
@given(MATRICES, st.floats(0.01, 100), st.booleans())
def test_a_factor_stretches_the_interval(values, factor, negative):
    scale = -factor if negative else factor
    first, second = paired_interval(values), paired_interval(scale * values)
    assert second.estimate == pytest.approx(scale * first.estimate)
    assert second.high - second.low == pytest.approx(factor * (first.high - first.low), abs=1e-7)


@settings(deadline=None, max_examples=50)
@given(MATRICES)
def test_more_confidence_is_wider(values):
    narrow, wide = paired_interval(values, confidence=0.8), paired_interval(values, confidence=0.99)
    assert wide.low <= narrow.low <= narrow.estimate <= narrow.high <= wide.high


@settings(deadline=None, max_examples=50)
@given(MATRICES, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_p_value_and_the_interval_agree(values, confidence):
    interval = paired_interval(values, confidence=confidence)
    if abs(interval.p_value - (1 - confidence)) > 1e-9:
        assert (interval.p_value < 1 - confidence) == (interval.low > 0 or interval.high < 0)


def test_the_critical_value_lies_between_those_of_its_components():
    seeds, examples = Component(1.0, 2), Component(3.0, 59)
    assert critical_value([seeds], 0.05) == pytest.approx(stats.t.ppf(0.975, 2))
    mixed = critical_value([seeds, examples], 0.05)
    assert mixed == pytest.approx((stats.t.ppf(0.975, 2) + 3 * stats.t.ppf(0.975, 59)) / 4)
    assert critical_value([Component(0.0, 2)], 0.05) == 0


def test_no_component_is_no_interval():
    interval = interval_from(1.5, [], confidence=0.95, counts=(1, 1, 0), method="none")
    assert interval.estimate == 1.5
    assert math.isnan(interval.standard_error)


@settings(deadline=None, max_examples=50)
@given(MATRICES)
def test_the_jackknife_of_a_mean_gives_back_the_differences(values):
    full, cells = jackknife_cells(
        lambda weights: (weights * values).sum(axis=(1, 2)) / weights.sum(axis=(1, 2)),
        num_seeds=values.shape[0],
        num_examples=values.shape[1],
    )
    assert full == pytest.approx(values.mean(), abs=1e-9)
    np.testing.assert_allclose(cells, values, atol=1e-8)


def test_the_jackknife_of_one_seed_leaves_out_examples():
    values = np.array([[1.0, 2.0, 6.0]])
    full, cells = jackknife_cells(
        lambda weights: (weights * values).sum(axis=(1, 2)) / weights.sum(axis=(1, 2)), num_seeds=1, num_examples=3
    )
    assert full == 3
    np.testing.assert_allclose(cells, values)


def test_the_bootstrap_is_reproducible_and_near_the_t_interval_at_many_seeds():
    values = draw(np.random.default_rng(2), 30, 100, of_seed=0.2, of_example=1.0, of_cell=0.2)
    ends = percentile_bootstrap(values, rng=np.random.default_rng(3))
    assert ends == percentile_bootstrap(values, rng=np.random.default_rng(3))
    interval = paired_interval(values)
    assert ends == pytest.approx((interval.low, interval.high), abs=0.05)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    "mix",
    [
        {"of_seed": 0.0, "of_example": 0.0, "of_cell": 1.0},
        {"of_seed": 0.0, "of_example": 1.0, "of_cell": 1.0},
        {"of_seed": 0.4, "of_example": 1.0, "of_cell": 0.3},
        {"of_seed": 1.0, "of_example": 0.3, "of_cell": 0.3},
    ],
)
def test_95_percent_intervals_cover_95_percent(seeds, mix):
    rng = np.random.default_rng(4)
    studies = 1500
    covered = 0
    for _ in range(studies):
        values = draw(rng, seeds, 40, **mix)
        parts, _ = mean_components(values)
        half = critical_value(parts, 0.05) * math.sqrt(sum(part.variance for part in parts))
        covered += abs(values.mean()) <= half
    # Three standard errors below 95%, and the most that docs/statistics.md claims above it.
    assert 93.3 <= 100 * covered / studies <= 99


def test_the_plain_bootstrap_undercovers_at_three_seeds_which_is_why_it_is_not_used():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        low, high = percentile_bootstrap(
            draw(rng, 3, 40, of_seed=1.0, of_example=0.3, of_cell=0.3), rng=rng, num_draws=400
        )
        covered += low <= 0 <= high
    assert covered < 170


def test_a_seed_of_the_bootstrap_gives_what_its_generator_gives():
    table = np.random.default_rng(1).normal(size=(3, 20))
    assert percentile_bootstrap(table, rng=0) == percentile_bootstrap(table, rng=np.random.default_rng(0))
    assert percentile_bootstrap(table, rng=0) != percentile_bootstrap(table, rng=1)
