"""Win rates of arms: conventions, length control, and the interval of refits."""

from dataclasses import replace

import numpy as np
import pytest

from neftune.analysis.pairing import pairings
from neftune.analysis.preferences import Contest, win_rates
from neftune.evaluation.length_control import length_controlled_win_rate
from neftune.evaluation.winrate import preferences_from_quality, win_rate
from tests.synthetic import make_study


@pytest.fixture(scope="module")
def pairing():
    return next(p for p in pairings(make_study(control=False)) if p.arm == "nsr=0.6")


def is_open(run, example):
    return run.tags[example]["half"] == "open"


def by_metric(pairing, part="test"):
    return {rate.metric: rate for rate in win_rates(pairing, part, confidence=0.95)}


def open_columns(runs, metric, part="test"):
    rows = []
    for run in runs:
        scores = run.scores[part]
        rows.append([
            value for example, value in zip(scores.example_ids, scores.values[metric], strict=True)
            if is_open(run, example)
        ])  # fmt: skip
    return np.array(rows)


def lengths(runs, part="test"):
    return np.array([[len(a.text) for a in run.answers[part] if is_open(run, a.example_id)] for run in runs])


def test_raw_rates_are_those_of_the_win_rate_function_on_open_examples(pairing):
    ours, theirs = (open_columns(runs, "quality").ravel() for runs in (pairing.runs, pairing.baseline))
    expected = win_rate(preferences_from_quality(ours, theirs))
    rate = by_metric(pairing)["win_rate"]
    assert rate.arm == pytest.approx(expected.win_rate)
    assert rate.baseline == 50
    assert rate.interval.estimate == pytest.approx(expected.win_rate - 50)
    assert rate.interval.num_examples == 30


def test_the_length_controlled_rate_is_that_of_one_fit_over_all_seeds(pairing):
    ours, theirs = (open_columns(runs, "quality").ravel() for runs in (pairing.runs, pairing.baseline))
    expected = length_controlled_win_rate(
        preferences_from_quality(ours, theirs), lengths(pairing.runs).ravel(), lengths(pairing.baseline).ravel()
    )
    assert by_metric(pairing)["lc_win_rate"].arm == pytest.approx(expected.win_rate, abs=1e-3)


def test_rates_against_references_are_compared_with_the_baselines_own(pairing):
    rate = by_metric(pairing)["win_rate_vs_reference"]
    reference = open_columns(pairing.baseline, "reference_quality").ravel()
    base = win_rate(preferences_from_quality(open_columns(pairing.baseline, "quality").ravel(), reference)).win_rate
    arm = win_rate(preferences_from_quality(open_columns(pairing.runs, "quality").ravel(), reference)).win_rate
    assert (rate.baseline, rate.arm) == pytest.approx((base, arm))
    assert rate.interval.estimate == pytest.approx(arm - base)


def test_all_examples_count_where_none_is_tagged(pairing):
    untagged = [tuple(replace(run, tags={}) for run in runs) for runs in (pairing.baseline, pairing.runs)]
    rate = by_metric(replace(pairing, baseline=untagged[0], runs=untagged[1]))["win_rate"]
    assert rate.interval.num_examples == 60


def test_an_arm_against_itself_is_even(pairing):
    rates = by_metric(replace(pairing, runs=pairing.baseline))
    assert rates["win_rate"].interval.estimate == 0
    assert rates["lc_win_rate"].arm == pytest.approx(50)
    assert rates["lc_win_rate_vs_reference"].interval.estimate == pytest.approx(0)


def test_swapping_the_sides_mirrors_the_rates(pairing):
    forth, back = by_metric(pairing), by_metric(replace(pairing, baseline=pairing.runs, runs=pairing.baseline))
    for metric in ("win_rate", "lc_win_rate"):
        assert forth[metric].arm + back[metric].arm == pytest.approx(100, abs=1e-6)
        assert forth[metric].interval.low == pytest.approx(-back[metric].interval.high, abs=1e-6)


def test_intervals_stay_within_what_is_possible(pairing):
    for rate in by_metric(pairing).values():
        bound = 50 if "reference" not in rate.metric else 100
        assert -bound <= rate.interval.low <= rate.interval.high <= bound


def test_an_unreadable_quality_drops_the_example(pairing):
    run = pairing.runs[0]
    scores = run.scores["test"]
    quality = (float("nan"), *scores.values["quality"][1:])
    broken = replace(run, scores={**run.scores, "test": replace(scores, values={**scores.values, "quality": quality})})
    rate = by_metric(replace(pairing, runs=(broken, *pairing.runs[1:])))["win_rate"]
    assert (rate.interval.num_examples, rate.interval.num_dropped) == (29, 1)


def test_no_quality_is_no_rate():
    pairing = pairings(make_study(judge=False))[0]
    assert win_rates(pairing, "test", confidence=0.95) == ()


def test_a_length_that_never_varies_leaves_the_raw_rate_alone(pairing):
    def same_length(run, length):
        answers = tuple(replace(answer, text="x" * length) for answer in run.answers["test"])
        return replace(run, answers={**run.answers, "test": answers})

    baseline = tuple(same_length(run, 10) for run in pairing.baseline)
    runs = tuple(same_length(run, 20) for run in pairing.runs)
    rates = by_metric(replace(pairing, baseline=baseline, runs=runs))
    assert "win_rate" in rates
    assert "lc_win_rate" not in rates


def test_chunked_refits_equal_refits_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    contest = Contest(1.0 + rng.integers(0, 2, (3, 20)), rng.normal(size=(3, 20)))
    weights = rng.integers(0, 2, (50, 3, 20)).astype(float)
    at_once = contest.length_controlled(weights)
    monkeypatch.setattr("neftune.analysis.preferences._CHUNK_CELLS", 60 * 7)
    np.testing.assert_allclose(contest.length_controlled(weights), at_once)


def test_answers_that_are_all_longer_have_no_length_controlled_rate():
    """No fit can say what equal length would give where it was never seen."""
    result = make_study(blocks=("",), arms=("nsr=0.6",), control=False)
    longer = {run.run_id for run in result.planned if run.arm == "nsr=0.6"}
    records = {
        run_id: replace(
            record,
            answers={
                part: tuple(replace(one, text=f"{one.text} {'and more ' * 99}") for one in answers)
                for part, answers in record.answers.items()
            },
        )
        if run_id in longer
        else record
        for run_id, record in result.records.items()
    }
    (pairing,) = pairings(replace(result, records=records))
    metrics = {rate.metric for rate in win_rates(pairing, "test", confidence=0.95)}
    assert metrics == {"win_rate", "win_rate_vs_reference"}
    (plain,) = pairings(result)
    assert "lc_win_rate" in {rate.metric for rate in win_rates(plain, "test", confidence=0.95)}
