"""The pooled effect over blocks is Student's t over them, and is not given below three."""

import numpy as np
import pytest
from scipy import stats

from neftune.analysis.blocks import pooled_effects
from neftune.analysis.effects import find_effects, study_effects
from tests.synthetic import Planted, make_study

WORLDS = tuple(f"world={n}" for n in range(4))


@pytest.fixture(scope="module")
def effects():
    planted = {"nsr=0.3": Planted(loss=-0.3)}
    return study_effects(make_study(blocks=WORLDS, arms=["nsr=0.3"], planted=planted, judge=False, control=False))


def test_three_blocks_or_more_are_pooled_by_t(effects):
    (found,) = [e for e in pooled_effects(effects) if (e.part, e.metric) == ("test", "loss")]
    estimates = [e.estimate for e in find_effects(effects, part="test", metric="loss")]
    expected = stats.ttest_1samp(estimates, 0)
    assert found.blocks == WORLDS
    assert found.estimate == pytest.approx(np.mean(estimates))
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.sd_blocks == pytest.approx(np.std(estimates, ddof=1))


def test_two_blocks_are_not_pooled(effects):
    assert not pooled_effects([e for e in effects if e.block in WORLDS[:2]])


def test_a_metric_is_pooled_over_the_blocks_that_have_it(effects):
    kept = [e for e in effects if (e.block, e.metric) != ("world=3", "loss")]
    sizes = {e.metric: len(e.blocks) for e in pooled_effects(kept) if e.part == "test"}
    assert (sizes["loss"], sizes["words"]) == (3, 4)


def test_blocks_of_unequal_size_that_differ_are_covered():
    # Blocks differ (sd 1) and have errors of their own (0.2 to 2): an interval for further blocks covers 95% of means.
    rng, errors = np.random.default_rng(0), np.array([0.2, 0.5, 1.0, 2.0])
    drawn = rng.standard_normal((20_000, 4)) * np.sqrt(1 + errors**2)
    half = stats.t.ppf(0.975, 3) * drawn.std(axis=1, ddof=1) / 2
    assert 94.5 <= 100 * np.mean(np.abs(drawn.mean(axis=1)) <= half) <= 97
