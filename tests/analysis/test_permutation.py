"""Sign flips: scipy's exact answers, the floor that few seeds set, and the level under no effect."""

import numpy as np
import pytest
from scipy import stats

from neftune.analysis.permutation import paired_permutation, sign_flips


def scipys(values):
    def mean(sample, axis):
        return sample.mean(axis=axis)

    return stats.permutation_test(
        (values,), mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_the_exact_p_value_is_scipys(count):
    values = np.random.default_rng(count).normal(0.5, 1, count)
    found = sign_flips(values, rng=np.random.default_rng(0))
    assert found.is_exact
    assert found.p_value == pytest.approx(scipys(values))


def test_ties_count_as_far():
    values = np.array([0.1, 0.2, 0.3, 0.0, -0.6])
    assert sign_flips(values, rng=np.random.default_rng(0)).p_value == 1.0


@pytest.mark.parametrize(("seeds", "smallest"), [(1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_few_seeds_cannot_reject_and_the_result_says_so(seeds, smallest):
    found = sign_flips(np.full(seeds, 2.0), rng=np.random.default_rng(0))
    assert found.p_value == found.smallest == smallest


def test_many_are_drawn_and_near_the_t_test():
    values = np.random.default_rng(1).normal(0.2, 1, 200)
    found = sign_flips(values, rng=np.random.default_rng(2))
    assert not found.is_exact
    assert found.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    assert found.p_value == sign_flips(values, rng=np.random.default_rng(2)).p_value
    assert sign_flips(values + 5, rng=np.random.default_rng(2)).p_value == found.smallest == pytest.approx(1 / 20_001)


def test_the_level_is_kept():
    rng = np.random.default_rng(3)
    found = [sign_flips(rng.standard_exponential(8) * rng.choice([-1, 1], 8), rng=rng).p_value for _ in range(2000)]
    assert 100 * np.mean(np.array(found) <= 0.05) <= 5 + 3 * 0.49


def test_a_table_is_flipped_by_seed_and_by_example():
    rng = np.random.default_rng(4)
    values = 0.5 + 0.1 * rng.standard_normal((3, 40))
    values[0, 5] = np.nan
    found = paired_permutation(values, rng=rng)
    assert (found.over_seeds.num_flipped, found.over_examples.num_flipped, found.num_dropped) == (3, 39, 1)
    assert found.over_examples.p_value < 0.001
    assert found.p_value == found.over_seeds.p_value == 0.25
