"""What every registered text metric keeps."""

import inspect
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neftune.evaluation.text_metrics import TextMetric, text_metric, text_metrics

each_metric = pytest.mark.parametrize("metric", text_metrics.values(), ids=list(text_metrics))
TEXTS = [
    "",
    " ",
    "a",
    "The cat sat on the mat.",
    "the " * 60,
    "日本語のテキスト",
    "\x00\ud7ff",
    "👍🏽" * 30,
    "line\n\nline\t",
]


def test_the_names_that_others_call_are_there():
    assert set(text_metrics) >= {
        "characters",
        "words",
        "repetition_2",
        "repetition_4",
        "log_diversity_paper",
        "log_diversity",
        "rouge_l",
        "bleu",
    }


@each_metric
def test_it_says_what_it_is(metric: TextMetric):
    assert text_metrics[metric.name] is metric
    assert metric.unit
    assert metric.source
    assert metric.direction in ("higher", "lower", "neither")
    assert inspect.getdoc(metric.compute)


@each_metric
def test_it_is_a_finite_number_or_nan_and_the_same_twice(metric: TextMetric):
    for answer, reference in itertools.product(TEXTS, TEXTS):
        value, again = metric(answer, reference), metric(answer, reference)
        assert isinstance(value, float)
        assert math.isnan(value) or 0 <= value < math.inf
        assert again == value or (math.isnan(again) and math.isnan(value))


@each_metric
@settings(max_examples=30, deadline=None)
@given(answer=st.text(max_size=80), reference=st.text(max_size=80))
def test_it_takes_any_text(metric: TextMetric, answer: str, reference: str):
    value = metric(answer, reference)
    assert math.isnan(value) or value >= 0
    if metric.unit == "%":
        assert math.isnan(value) or value <= 100
    if metric.unit == "fraction":
        assert math.isnan(value) or value <= 1


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="text metric names must be unique, got 'words'"):
        text_metric("words", unit="words", direction="neither", source="here")(lambda answer, reference: 0.0)
