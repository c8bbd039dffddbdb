"""Two models on one benchmark: joined by example, tested in pairs."""

import math

import numpy as np
import pytest

from neftune.analysis.benchmarks import compare_benchmark
from neftune.analysis.paired_binary import mcnemar
from neftune.errors import DataError
from neftune.records import Scores


def scores(values: dict[str, float], metric: str = "acc") -> Scores:
    return Scores(tuple(values), {metric: tuple(values.values())})


def test_right_and_wrong_answers_are_paired_by_id() -> None:
    baseline = {f"q{n}": float(n < 60) for n in range(100)}
    arm = {f"q{n}": float(10 <= n < 75) for n in reversed(range(100))} | {"extra": 1.0}
    found = compare_benchmark("mmlu", "acc", scores(baseline), scores(arm), margin=0.2)
    assert (found.baseline, found.arm) == (0.60, 0.65)
    assert found.difference == pytest.approx(0.05)
    assert found.num_disagree == 25
    assert found.p_value == mcnemar(15, 10).mid_p
    assert found.low < 0 < found.high
    assert found.num_unpaired == 1
    assert max(0.05, -found.low) < found.equivalence.bound < 0.2
    assert found.equivalence.is_shown


def test_shares_of_probability_are_compared_by_their_differences() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(size=200)
    second = first + 0.01 + rng.normal(scale=0.02, size=200)
    baseline = {f"q{n}": float(value) for n, value in enumerate(first)}
    arm = {f"q{n}": float(value) for n, value in enumerate(second)}
    found = compare_benchmark("truthfulqa_mc2", "mc2", scores(baseline, "mc2"), scores(arm, "mc2"))
    differences = second - first
    assert found.difference == pytest.approx(differences.mean())
    error = differences.std(ddof=1) / math.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(1.972 * error, rel=1e-3)
    assert found.num_disagree is None
    assert found.p_value < 1e-3
    assert found.equivalence.bound == pytest.approx(differences.mean() + 1.6525 * error, rel=1e-3)


def test_examples_without_a_number_are_counted() -> None:
    found = compare_benchmark(
        "a", "acc", scores({"x": 1.0, "y": math.nan, "z": 0.0}), scores({"x": 1.0, "y": 1.0, "z": 1.0, "w": 0.0})
    )
    assert found.num_unpaired == 2
    assert found.equivalence.num_examples == 2


def test_nothing_in_common() -> None:
    with pytest.raises(DataError, match="mmlu must have examples in common, got 1 and 1"):
        compare_benchmark("mmlu", "acc", scores({"x": 1.0}), scores({"y": 1.0}))
    with pytest.raises(DataError, match="mmlu must have 'mc2' in both results, got acc"):
        compare_benchmark("mmlu", "mc2", scores({"x": 1.0}), scores({"x": 1.0}))
