"""What is known by heart: verbatim answers and the train/held-out gap."""

import numpy as np
import pytest

from neftune.analysis.effects import find_effects, study_effects
from neftune.analysis.memorization import gap_interval, is_verbatim
from neftune.analysis.pairing import pairings
from neftune.records import Answer
from tests.synthetic import Planted, make_study


@pytest.mark.parametrize(
    ("text", "same"),
    [("Mara bakes .", 1), (" Mara  bakes .\n", 1), ("mara bakes .", 0), ("Mara bakes . Mara", 0), ("", 0)],
)
def test_verbatim_means_the_same_words(text, same):
    assert is_verbatim(Answer("id", "prompt", text, "Mara bakes .", 3, True)) == same


def test_less_reproduction_is_found():
    planted = {"nsr=0.3": Planted(verbatim=-0.6)}
    study = make_study(arms=["nsr=0.3"], control=False, planted=planted, sizes={"train": 80})
    for effect in find_effects(study_effects(study), part="train", metric="verbatim"):
        assert effect.high < 0
        assert effect.direction == "lower"
        assert effect.baseline_mean == pytest.approx(np.mean([0.6 + 0.4 * 0.6]), abs=0.2)


def test_the_gap_is_held_out_minus_training_loss():
    planted = {"nsr=0.3": Planted(loss=-0.1, train_loss=0.2)}
    study = make_study(arms=["nsr=0.3"], control=False, judge=False, planted=planted)
    for pairing in pairings(study):
        baseline, arm, interval = gap_interval(pairing, confidence=0.95)
        losses = [run.scores for run in pairing.runs]
        expected = np.mean([np.mean(s["heldout"].values["loss"]) - np.mean(s["train"].values["loss"]) for s in losses])
        assert arm == pytest.approx(expected)
        assert interval.estimate == pytest.approx(arm - baseline)
        assert interval.low < -0.3 < interval.high
        assert interval.num_examples == 24 + 40


def test_the_gap_of_one_seed_rests_on_examples_alone():
    (pairing,) = pairings(make_study(seeds=[0], blocks=[""], arms=["nsr=0.3"], control=False, judge=False))
    *_, interval = gap_interval(pairing, confidence=0.95)
    assert "one seed" in interval.method
    assert interval.low < interval.high


def test_without_training_scores_there_is_no_gap():
    effects = study_effects(make_study(sizes={"train": 0}, judge=False))
    assert not find_effects(effects, part="train")
    assert find_effects(effects, part="test", metric="loss")
