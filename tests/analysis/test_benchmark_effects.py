"""Benchmarks of a study: paired by question and seed, with a bound on how small the difference is."""

from dataclasses import replace

import numpy as np
import pytest

from neftune.analysis.benchmark_effects import benchmark_effects, headline_metric
from neftune.analysis.effects import find_effects, study_effects
from neftune.analysis.paired_binary import compare_shares
from neftune.records import Scores, StudyResult
from tests.synthetic import make_study

NUM = 400


def with_benchmark(result: StudyResult, right: dict[str, float], name: str = "arc_challenge") -> StudyResult:
    """The study with a benchmark of NUM questions on which an arm's share of right answers is as given."""
    rng = np.random.default_rng(0)
    difficulty = rng.random(NUM)
    records = {}
    for run in result.planned:
        own = np.random.default_rng([run.seed, len(run.arm)]).normal(0, 0.05, NUM)
        correct = (difficulty + own < right.get(run.arm, right["baseline"])).astype(float)
        values = {"acc": tuple(1 - correct), "acc_norm": tuple(correct), "choice": tuple(correct * 3)}
        record = result.records[run.run_id]
        scores = Scores(
            tuple(f"q{i}" for i in range(NUM)), {key: tuple(map(float, one)) for key, one in values.items()}
        )
        records[run.run_id] = replace(record, scores={**record.scores, name: scores})
    return replace(result, records=records)


@pytest.fixture(scope="module")
def study() -> StudyResult:
    plain = make_study(blocks=("",), arms=("nsr=0.3", "nsr=1.0"), control=False)
    return with_benchmark(plain, {"baseline": 0.5, "nsr=0.3": 0.5, "nsr=1.0": 0.4})


def test_every_arm_has_its_difference_on_the_headline_metric(study):
    same, worse = benchmark_effects(study)
    assert (same.benchmark, same.metric, same.arm, worse.arm) == ("arc_challenge", "acc_norm", "nsr=0.3", "nsr=1.0")
    assert worse.interval.estimate == pytest.approx(worse.mean - worse.baseline)
    assert worse.interval.estimate == pytest.approx(-0.1, abs=0.03)
    assert worse.interval.high < 0
    assert abs(same.interval.estimate) < same.equivalence.bound < 0.03 < worse.equivalence.bound
    assert (same.interval.num_seeds, same.interval.num_examples) == (3, NUM)
    assert worse.only_baseline - worse.only_arm == round(-worse.interval.estimate * 3 * NUM)
    assert worse.mcnemar_p is None


def test_one_seed_has_mcnemars_test():
    result = with_benchmark(make_study(blocks=("",), arms=("nsr=1.0",), control=False, seeds=(0,)),
                            {"baseline": 0.5, "nsr=1.0": 0.4})  # fmt: skip
    (effect,) = benchmark_effects(result)
    runs = {run.arm: result.records[run.run_id].scores["arc_challenge"].values["acc_norm"] for run in result.planned}
    expected = compare_shares(runs["baseline"], runs["nsr=1.0"])
    assert effect.mcnemar_p == expected.p_value < 0.01
    assert (effect.only_arm, effect.only_baseline) == (expected.only_arm, expected.only_baseline)


def test_a_choice_has_no_mean_and_accuracies_have_a_better_side(study):
    effects = study_effects(study)
    assert not find_effects(effects, part="arc_challenge", metric="choice")
    (accuracy,) = find_effects(effects, part="arc_challenge", metric="acc_norm", arm="nsr=1.0")
    assert (accuracy.unit, accuracy.direction) == ("fraction", "higher")


def test_a_study_without_benchmarks_has_none():
    assert benchmark_effects(make_study()) == ()


def test_an_unknown_benchmark_goes_by_its_first_metric():
    assert headline_metric("my_task", ("exact_match", "acc")) == "exact_match"
    assert headline_metric("mmlu", ("acc_norm", "acc")) == "acc"
