"""Dose-response: which arms are doses, the band that holds together, and which doses may be the best."""

import math

import numpy as np
import pytest

from neftune.analysis.dose_response import best_arms, dose_knob, dose_responses
from neftune.analysis.effects import find_effects, study_effects
from neftune.analysis.multiplicity import simultaneous_interval
from tests.analysis.test_factorial import margin, rates
from tests.synthetic_designs import Luck, make_design, product

__all__ = ["rates"]  # the fixture
STUDIES = 300
DOSES = [0, 0.1, 1.0, 10.0, 100.0]


def curve(setting):
    return {0: 0.0, 0.1: -0.05, 1.0: -0.2, 10.0: -0.18, 100.0: 0.5}[setting["noise.alpha"]]


@pytest.fixture(scope="module")
def study():
    settings = [{"noise.alpha": dose} for dose in (0, 10.0, 0.1, 100.0, 1.0)]
    return make_design(settings, curve, seeds=(0, 1, 2), blocks=("world=0", "world=1"))


@pytest.fixture(scope="module")
def response(study):
    return dose_responses(study, part="heldout", metric="loss")[0]


def test_doses_stand_in_order_with_the_baseline_first_and_their_realised_ratio(response):
    assert (response.block, response.knob) == ("world=0", "noise.alpha")
    assert [dose.dose for dose in response.doses] == DOSES
    baseline, *others = response.doses
    assert (baseline.estimate, baseline.low, baseline.band_high, baseline.noise_to_embedding) == (0, 0, 0, 0)
    assert math.isnan(baseline.p_value)
    assert [dose.noise_to_embedding for dose in others] == pytest.approx([dose / 11 for dose in DOSES[1:]])


def test_intervals_are_the_arms_own_and_the_band_is_bonferronis(study, response):
    effects = study_effects(study)
    for dose in response.doses[1:]:
        (effect,) = find_effects(effects, block="world=0", part="heldout", arm=dose.arm, metric="loss")
        assert (dose.estimate, dose.low, dose.high) == pytest.approx((effect.estimate, effect.low, effect.high))
        assert dose.level == pytest.approx(effect.arm_mean)
        band = simultaneous_interval(effect, confidence=0.95, num_arms=4)
        assert (dose.band_low, dose.band_high) == pytest.approx(band)
        assert dose.band_low < dose.low
        assert dose.high < dose.band_high


def test_the_best_dose_and_those_that_cannot_be_told_from_it():
    study = make_design(product({"noise.alpha": DOSES}), curve, seeds=range(5), luck=Luck(0.02, 0.02, 0.05))
    (response,) = dose_responses(study, part="test", metric="loss")
    assert response.best.dose in (1.0, 10.0)
    assert [dose.dose for dose in response.may_be_best] == [1.0, 10.0]


def test_without_an_effect_no_noise_may_be_the_best_too():
    study = make_design(product({"noise.alpha": DOSES}), lambda _: 0.0, seeds=range(5))
    (response,) = dose_responses(study, part="test", metric="loss")
    assert [dose.dose for dose in response.may_be_best] == DOSES


def test_every_block_has_its_own_doses(study):
    kept = tuple(run for run in study.planned if (run.block, run.arm) != ("world=1", "alpha=100.0"))
    responses = dose_responses(type(study)(study.recipe, kept, study.records, {}), part="heldout", metric="loss")
    assert [len(response.doses) for response in responses] == [5, 4]


def test_a_metric_without_a_direction_has_no_best(study):
    import dataclasses

    renamed = {
        run_id: dataclasses.replace(
            record,
            scores={k: dataclasses.replace(s, values={"tokens": s.values["loss"]}) for k, s in record.scores.items()},
        )
        for run_id, record in study.records.items()
    }
    response = dose_responses(dataclasses.replace(study, records=renamed), part="test", metric="tokens")[0]
    assert response.best is None
    assert len(response.may_be_best) == len(response.doses)


@pytest.mark.parametrize(
    ("settings", "knob"),
    [
        ([{"noise.nsr": 0}, {"noise.nsr": 0.3}, {"noise.nsr": 0.6}], "noise.nsr"),
        ([{}, {"noise.alpha": 1.0}, {"noise.alpha": 5.0}], "noise.alpha"),
        ([{"noise.alpha": 0}, {"noise.alpha": 5.0}], None),
        ([{"noise.alpha": 0}, {"noise.alpha": 5.0}, {"noise.nsr": 0.3}], None),
        ([{"noise.alpha": float(dose), "train.num_epochs": dose} for dose in range(4)], None),
        ([{"data.template": "plain"}, {"data.template": "chat"}, {"data.template": "alpaca"}], None),
    ],
)
def test_arms_are_doses_where_one_numeric_knob_differs(settings, knob):
    study = make_design(settings, lambda _: 0.0)
    assert dose_knob(study) == knob
    assert bool(dose_responses(study, part="test", metric="loss")) == (knob is not None)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("mix", ["seeds weak", "seeds dominate"])
def test_the_band_holds_together_and_the_best_dose_is_kept(rates, mix, seeds):
    got = rates.doses(rates.MIXES[mix], seeds, STUDIES, np.random.default_rng(seeds))
    assert got["band"] >= 95 - margin(95)
    assert got["best_kept"] >= 95 - margin(95)
    assert got["each_alone"] < 90  # what the band is there for


def test_one_arm_that_stands_out_is_the_only_one_kept(rates):
    truth = np.array([0.0, -1.0, 0.5])
    table = rates.table_of(rates.simulate(truth, (0.01, 0.1, 0.1), 5, np.random.default_rng(0)), ("a", "b", "c"))
    assert best_arms(table, confidence=0.95) == (1, frozenset({1}))
