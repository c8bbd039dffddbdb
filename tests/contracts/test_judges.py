"""What every judge must do. A judge that needs other data than the microworld brings its settings here."""

import math

import pytest

from neftune.config import DataConfig
from neftune.data.datasets import load_data
from neftune.errors import ConfigError, UnknownNameError
from neftune.evaluation.judges import Judge, judges

SETTINGS = {"facts": DataConfig(num_heldout=20, num_test=20, num_train=20)}


@pytest.mark.parametrize("name", judges)
def test_a_judge_scores_every_example_by_the_same_names(name: str):
    settings = SETTINGS[name]
    judge = judges[name](settings)
    assert isinstance(judge, Judge)
    names = None
    for part in load_data(settings).parts.values():
        for example in part:
            for answer in ("", "An answer.", example.reference):
                scores = judge.scores(example, answer)
                names = names or set(scores)
                assert set(scores) == names
                assert all(isinstance(score, float) for score in scores.values())
                assert math.isfinite(scores["quality"])
    assert names is not None
    own = {name for name in names if not name.startswith("reference_")}
    assert {"quality"} <= own
    assert {f"reference_{name}" for name in own} <= names


@pytest.mark.parametrize("name", judges)
def test_a_judge_thinks_the_same_of_the_same_answer(name: str):
    settings = SETTINGS[name]
    example = load_data(settings).parts["test"][0]
    first, second = (judges[name](settings).scores(example, example.reference) for _ in range(2))
    assert first == pytest.approx(second, nan_ok=True)
    own = {key: score for key, score in first.items() if not key.startswith("reference_")}
    assert own == pytest.approx({key: first[f"reference_{key}"] for key in own}, nan_ok=True)


@pytest.mark.parametrize("name", judges)
def test_a_judge_says_what_it_does(name: str):
    assert judges[name].__doc__


def test_the_facts_judge_refuses_data_whose_truth_is_unknown():
    with pytest.raises(
        ConfigError, match=r"needs data.source 'microworld', got 'alpaca.json'. Set evaluate.judge to null"
    ):
        judges["facts"](DataConfig(source="alpaca.json"))


def test_a_judge_that_is_not_there():
    with pytest.raises(UnknownNameError, match="Did you mean 'facts'"):
        judges["fact"]
