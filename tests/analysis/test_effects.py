"""Effects of synthetic studies are what was planted."""

import math
from dataclasses import replace

import numpy as np
import pytest

from neftune.analysis.effects import decision_of, find_effects, require_effect, study_effects
from neftune.analysis.metrics import meaning_of
from neftune.config import Decision
from neftune.errors import DataError
from tests.synthetic import BASELINE, CONTROL, Planted, Spread, make_study

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def study():
    return make_study()


@pytest.fixture(scope="module")
def effects(study):
    return study_effects(study)


def one(effects, **wanted):
    (effect,) = find_effects(effects, **wanted)
    return effect


def test_every_block_arm_and_part_is_there(effects):
    assert {(e.block, e.arm) for e in effects} == {
        (block, arm) for block in ("world=0", "world=1") for arm in ("nsr=0.3", "nsr=0.6", "nsr=1.0", CONTROL)
    }
    assert {e.part for e in effects} == {"train", "heldout", "test"}
    assert len({(e.block, e.part, e.arm, e.metric) for e in effects}) == len(effects)
    assert all(e.is_control == (e.arm == CONTROL) for e in effects)


def test_a_mean_effect_is_the_difference_of_the_paired_means(study, effects):
    runs = {(r.arm, r.block, r.seed): study.records[r.run_id] for r in study.planned}
    losses = {
        arm: np.array([runs[arm, "world=0", seed].scores["test"].values["loss"] for seed in (0, 1, 2)])
        for arm in (BASELINE, "nsr=0.3")
    }
    effect = one(effects, block="world=0", part="test", arm="nsr=0.3", metric="loss")
    assert effect.baseline_mean == pytest.approx(losses[BASELINE].mean())
    assert effect.arm_mean == pytest.approx(losses["nsr=0.3"].mean())
    assert effect.estimate == pytest.approx(effect.arm_mean - effect.baseline_mean)
    assert (effect.num_seeds, effect.num_examples, effect.unit, effect.direction) == (3, 60, "nats/token", "lower")


def test_planted_losses_are_covered_about_as_often_as_claimed():
    # 20 independent worlds at 3 seeds: 5% misses expected, so 4 or more has probability 0.016.
    study = make_study(blocks=[f"world={n}" for n in range(20)], arms=["nsr=0.3"], control=False, judge=False)
    found = find_effects(study_effects(study), part="test", metric="loss")
    misses = sum(not effect.low <= -0.04 <= effect.high for effect in found)
    assert len(found) == 20
    assert misses <= 3


def test_a_large_effect_is_found_and_no_effect_is_not():
    planted = {"nsr=0.3": Planted(loss=-0.3), "nsr=0.6": Planted()}
    effects = study_effects(make_study(planted=planted, judge=False, control=False))
    assert all(e.high < 0 for e in find_effects(effects, part="test", arm="nsr=0.3", metric="loss"))
    clear = [e for e in find_effects(effects, part="test", arm="nsr=0.6", metric="loss") if e.is_clear]
    assert not clear


def test_more_seeds_narrow_the_interval():
    kwargs = {"blocks": [""], "arms": ["alpha=5"], "control": False, "judge": False, "spread": Spread(run=0.05)}
    few = one(study_effects(make_study(seeds=range(3), **kwargs)), part="test", metric="loss")
    many = one(study_effects(make_study(seeds=range(12), **kwargs)), part="test", metric="loss")
    assert many.high - many.low < few.high - few.low


def test_undefined_examples_are_dropped_from_means_and_counted(effects):
    effect = one(effects, block="world=0", part="test", arm="nsr=0.3", metric="closed_correct")
    assert (effect.num_examples, effect.num_dropped) == (30, 30)
    assert 0 <= effect.baseline_mean <= 1


def test_a_metric_that_is_nowhere_defined_has_no_effect(study):
    records = {
        run_id: replace(
            record,
            scores={
                part: replace(scores, values={**scores.values, "log_diversity": (math.nan,) * len(scores.example_ids)})
                for part, scores in record.scores.items()
            },
        )
        for run_id, record in study.records.items()
    }
    effects = study_effects(replace(study, records=records))
    assert find_effects(effects, metric="loss")
    assert not find_effects(effects, metric="log_diversity")


def test_one_seed_is_labelled():
    effects = study_effects(make_study(seeds=[0]))
    assert all("one seed: says nothing about seeds" in e.method for e in effects)
    assert {e.num_seeds for e in effects} == {1}


def test_without_a_judge_there_is_no_win_rate():
    metrics = {e.metric for e in study_effects(make_study(judge=False))}
    assert "loss" in metrics
    assert not any("win_rate" in metric or metric == "quality" for metric in metrics)


def test_win_rates_are_not_taken_on_training_prompts(effects):
    assert {e.part for e in effects if "win_rate" in e.metric} == {"heldout", "test"}


def test_hostile_texts_change_nothing_but_texts():
    effects = study_effects(make_study(hostile=True))
    assert find_effects(effects, metric="lc_win_rate")


def test_a_partial_study_gives_the_effects_it_can():
    study = make_study(failed=[("nsr=0.3", "world=0", seed) for seed in (0, 1, 2)])
    effects = study_effects(study)
    assert not find_effects(effects, block="world=0", arm="nsr=0.3")
    assert find_effects(effects, block="world=1", arm="nsr=0.3")


def test_confidence_comes_from_the_recipe():
    wide = study_effects(make_study(judge=False, decision=Decision(confidence=0.99)))
    narrow = study_effects(make_study(judge=False, decision=Decision(confidence=0.8)))
    assert all(w.high - w.low >= n.high - n.low for w, n in zip(wide, narrow, strict=True))
    assert decision_of(make_study(decision=Decision(confidence=0.8))).confidence == 0.8


def test_a_metric_that_was_not_measured_is_named_with_those_that_were(effects):
    require_effect(effects, part="test", metric="loss")
    with pytest.raises(DataError, match=r"needs the metric 'mmlu' on the test part, got .*loss"):
        require_effect(effects, part="test", metric="mmlu")


@pytest.mark.parametrize(
    ("metric", "part", "unit", "direction"),
    [
        ("loss", "test", "nats/token", "lower"),
        ("loss", "train", "nats/token", "neither"),
        ("repetition_2", "test", "%", "lower"),
        ("words", "test", "words", "neither"),
        ("rouge_l", "test", "fraction", "higher"),
        ("rouge_l", "train", "fraction", "neither"),
        ("verbatim", "train", "fraction", "lower"),
        ("lc_win_rate", "test", "percentage points", "higher"),
        ("something_new", "test", "", "neither"),
    ],
)
def test_meanings(metric, part, unit, direction):
    meaning = meaning_of(metric, part)
    assert (meaning.unit, meaning.direction) == (unit, direction)
