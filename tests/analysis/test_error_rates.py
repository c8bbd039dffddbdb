"""Simulated studies with known truth: a small, seeded version of benchmarks/study_error_rates.py.

Bounds are the claims of docs/statistics.md widened by three binomial standard errors.
"""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neftune.analysis.effects import study_effects
from neftune.analysis.statistics import paired_interval
from neftune.analysis.verdict import decide
from tests.synthetic import Planted, Spread, make_study

STUDIES = 500


@pytest.fixture(scope="module")
def rates():
    path = Path(__file__).parents[2] / "benchmarks" / "study_error_rates.py"
    spec = importlib.util.spec_from_file_location("study_error_rates", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Its dataclasses look themselves up there.
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def margin(percent):
    return 3 * 100 * math.sqrt(percent / 100 * (1 - percent / 100) / STUDIES)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("mix", ["quickstart, loss", "seeds as examples", "seeds dominate"])
def test_intervals_cover_95_percent(rates, mix, seeds):
    found = rates.coverage(rates.MIXES[mix], seeds, STUDIES, np.random.default_rng(0))["percent"]
    assert 95 - margin(95) <= found <= 97.5 + margin(97.5)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("mix", ["quickstart, loss", "seeds dominate"])
def test_eight_arms_without_effect_are_called_useful_in_at_most_5_percent(rates, mix, seeds):
    found = rates.false_use(rates.MIXES[mix], 8, seeds, STUDIES, np.random.default_rng(1))
    assert found["percent"] <= 2.5 + margin(2.5) <= 5


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("mix", ["quickstart, loss", "seeds dominate"])
def test_a_choice_among_eight_arms_that_is_confirmed_on_fresh_seeds_needs_no_correction(rates, mix, seeds):
    found = rates.confirmed(rates.MIXES[mix], seeds, STUDIES, np.random.default_rng(5))
    assert found["false_use"]["percent"] <= 2.5 + margin(2.5) <= 5
    power, chosen = found["found_if_chosen"], found["right_arm_chosen"]
    assert chosen > 50
    assert power["percent"] == pytest.approx(80, abs=5 + 300 * math.sqrt(0.16 / power["studies"]))


def test_without_the_allowance_for_the_choice_they_would_be(rates):
    found = rates.false_use(rates.MIXES["seeds dominate"], 8, 5, STUDIES, np.random.default_rng(2))
    assert found["without_allowance"] > 5 + margin(5)


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("mix", ["quickstart, loss", "seeds strong"])
def test_power_is_as_predicted_within_5_points(rates, mix, seeds):
    for row in rates.power(rates.MIXES[mix], 1, seeds, STUDIES, np.random.default_rng(3)):
        assert abs(row["percent"] - row["predicted"]) <= 5 + margin(50) / 3


def test_the_interval_over_blocks_covers_95_percent(rates):
    for count in (3, 6):
        found = rates.blocks(count, 0.1, STUDIES, np.random.default_rng(4))["percent"]
        assert 95 - margin(95) <= found <= 97.5


def test_the_benchmarks_interval_is_the_packages(rates):
    table = np.random.default_rng(5).normal(size=(4, 30))
    ours, theirs = rates.interval_of(table), paired_interval(table)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert replace(ours, p_value=theirs.p_value).method == theirs.method


def test_whole_studies_without_effect_are_seldom_called_useful():
    # Through pairing, effects and verdict: 20 studies of one block and three arms at 3 seeds, 2.5% each at most.
    used = 0
    for number in range(20):
        arms = [f"alpha={number * 3 + arm + 1}" for arm in range(3)]
        none = {arm: Planted() for arm in arms}
        study = make_study(
            blocks=[f"world={number}"], arms=arms, control=False, judge=False, planted=none, spread=Spread(run=0.1),
            sizes={"train": 2, "heldout": 20, "test": 20},
        )  # fmt: skip
        used += decide(study, study_effects(study)).kind == "use"
    assert used <= 3
