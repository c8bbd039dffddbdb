"""Holm's correction: statsmodels' numbers, and claims that must hold in every block."""

import math
from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from neftune.analysis.effects import find_effects, study_effects
from neftune.analysis.multiplicity import arm_claims, holm, simultaneous_interval
from neftune.errors import DataError
from tests.synthetic import Planted, make_study

ARMS = ("nsr=0.3", "nsr=0.6", "nsr=1.0")
BLOCKS = ("world=0", "world=1")


@pytest.fixture(scope="module")
def effects():
    planted = {"nsr=0.3": Planted(loss=-0.3), "nsr=0.6": Planted(), "nsr=1.0": Planted(loss=0.3)}
    return study_effects(make_study(planted=planted, judge=False))


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_statsmodels_holm(seed):
    values = np.random.default_rng(seed).random(8) ** 3
    expected = multipletests(values, method="holm")[1]
    assert list(holm(dict(zip("abcdefgh", values, strict=True))).values()) == pytest.approx(list(expected))


def test_an_undefined_p_value_is_no_test():
    found = holm({"a": 0.02, "b": math.nan, "c": 0.04})
    assert (found["a"], found["c"]) == (0.04, 0.04)
    assert math.isnan(found["b"])


def test_a_p_value_must_be_one():
    with pytest.raises(DataError, match=r"in \[0, 1\], got 1.5 for b"):
        holm({"a": 0.1, "b": 1.5})


def test_only_an_arm_that_is_better_in_every_block_has_a_claim(effects):
    claims = {c.arm: c for c in arm_claims(effects, ARMS, blocks=BLOCKS, part="test", metric="loss")}
    assert claims["nsr=0.3"].adjusted == pytest.approx(3 * claims["nsr=0.3"].p_value)
    assert claims["nsr=0.3"].adjusted < 0.05
    assert claims["nsr=1.0"].p_value == 1.0
    worst = max(e.p_value for e in find_effects(effects, part="test", arm="nsr=0.3", metric="loss"))
    assert claims["nsr=0.3"].p_value == worst


def test_an_arm_that_lacks_a_block_makes_no_claim(effects):
    kept = tuple(e for e in effects if (e.arm, e.block) != ("nsr=0.3", "world=1"))
    claims = arm_claims(kept, ARMS, blocks=BLOCKS, part="test", metric="loss")
    assert [c.arm for c in claims] == ["nsr=0.6", "nsr=1.0"]


def test_intervals_that_hold_together_are_wider(effects):
    effect = find_effects(effects, block="world=0", part="test", arm="nsr=0.3", metric="loss")[0]
    assert simultaneous_interval(effect, confidence=0.95, num_arms=1) == pytest.approx((effect.low, effect.high))
    low, high = simultaneous_interval(effect, confidence=0.95, num_arms=3)
    assert low < effect.low < effect.high < high
    with pytest.raises(DataError, match="an effect with an interval"):
        simultaneous_interval(replace(effect, components=()), confidence=0.95, num_arms=3)
