"""Power: textbook values where there are any, and whole simulated tables where there are none."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from neftune.analysis.power import detectable_effect, power_of, seeds_needed, with_size
from neftune.analysis.statistics import Component, mean_components, paired_interval
from neftune.errors import DataError


def components(seeds, examples, sd):
    """The components of a table whose standard deviations of seed, example and rest are known."""
    rest = sd[2] ** 2 / (seeds * examples)
    return (
        Component(sd[0] ** 2 / seeds + rest, seeds - 1),
        Component(sd[1] ** 2 / examples, examples - 1, rest),
    )


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_seeds_alone_give_the_t_tests_power(seeds):
    parts = (Component(1 / seeds, seeds - 1),)
    for effect in (0.5, 1.0, 2.0):
        expected = TTestPower().power(effect, seeds, 0.05, alternative="two-sided")
        assert power_of(effect, parts) == pytest.approx(expected, abs=0.02)
    expected = TTestPower().solve_power(nobs=seeds, alpha=0.05, power=0.8)
    assert detectable_effect(parts) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("sd", [(0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.2, 1.0, 0.5), (1.0, 0.3, 0.3)])
def test_the_power_of_whole_tables_is_as_predicted(seeds, sd):
    parts = components(seeds, 40, sd)
    effect = detectable_effect(parts)
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(1000):
        values = effect + sd[0] * rng.standard_normal((seeds, 1)) + sd[1] * rng.standard_normal((1, 40))
        found += paired_interval(values + sd[2] * rng.standard_normal((seeds, 40))).low > 0
    assert found / 1000 == pytest.approx(0.8, abs=0.05)


def test_the_effect_worth_having_is_added():
    parts = components(4, 40, (0.2, 1.0, 0.5))
    assert detectable_effect(parts, min_effect=0.3) == pytest.approx(0.3 + detectable_effect(parts))
    assert power_of(0.7, parts, min_effect=0.3) == power_of(0.4, parts) == power_of(-0.4, parts)


def test_another_size_gives_the_components_of_the_same_variances():
    found = with_size(components(3, 40, (0.2, 1.0, 0.5)), seeds=7, examples=90)
    for one, other in zip(found, components(7, 90, (0.2, 1.0, 0.5)), strict=True):
        assert (one.variance, one.subtracted) == pytest.approx((other.variance, other.subtracted))
        assert one.freedom == other.freedom


def test_the_seeds_needed_are_the_fewest_that_find_it():
    parts = components(3, 200, (0.5, 1.0, 0.5))
    seeds = seeds_needed(0.4, parts)
    assert (
        detectable_effect(with_size(parts, seeds=seeds)) <= 0.4 < detectable_effect(with_size(parts, seeds=seeds - 1))
    )
    # Enough seeds for a t test over seed means, and a few more for the examples' variance.
    alone = TTestPower().solve_power(effect_size=0.4 / 0.5, alpha=0.05, power=0.8)
    assert alone <= seeds <= alone + 6


def test_seeds_cannot_settle_what_the_examples_hide():
    assert seeds_needed(0.05, components(3, 50, (0.1, 1.0, 0.5))) is None


def test_more_confidence_needs_more():
    parts = components(5, 40, (0.2, 1.0, 0.5))
    assert detectable_effect(parts, confidence=0.99) > detectable_effect(parts) > detectable_effect(parts, power=0.5)


def test_a_lucky_small_variance_between_seeds_does_not_promise_more_than_the_rest_allows():
    unlucky = (Component(1e-9, 2), Component(0.02, 39, 0.01))
    assert detectable_effect(unlucky) == detectable_effect((Component(0.01, 2), Component(0.02, 39, 0.01)))


def test_it_reads_the_components_of_a_real_table():
    values = np.random.default_rng(1).normal(0.2, 1, (4, 30))
    parts, _ = mean_components(values)
    assert [p.variance for p in paired_interval(values).components] == pytest.approx([p.variance for p in parts])
    assert detectable_effect(parts) > stats.norm.ppf(0.975) * paired_interval(values).standard_error


def test_nothing_to_plan_from_is_refused():
    with pytest.raises(DataError, match="power needs an estimate of variance"):
        detectable_effect(())
    with pytest.raises(DataError, match="planning needs the two components"):
        with_size((Component(1.0, 5),), seeds=3)
    with pytest.raises(DataError, match=r"power must be in \(0, 1\), got 80"):
        detectable_effect((Component(1.0, 5),), power=80)
