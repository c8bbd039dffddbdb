"""What is wrong with a run is found before it starts."""

from typing import Any

import pytest

from neftune.config import RunConfig
from neftune.errors import ConfigError, InputError, UnknownNameError
from neftune.recipe import validate
from neftune.study.check import check_run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": {"alpha": 5, "distribution": "unifrom"}}, "Did you mean 'uniform'"),
        ({"noise": {"alpha": 5, "schedule": "linea"}}, "Did you mean 'linear'"),
        ({"data": {"template": "alpca"}}, "Did you mean 'alpaca'"),
        ({"data": {"format": "alpca"}}, "Did you mean 'alpaca'"),
        ({"evaluate": {"judge": "fact"}}, "Did you mean 'facts'"),
        ({"data": {"source": "x.jsonl"}, "model": {"path": "m"}, "evaluate": {"judge": "facts"}}, "microworld"),
        ({"data": {"source": "x.jsonl"}}, "Name a model with --model.path"),
        ({"evaluate": {"parts": ["test"]}}, "must have heldout"),
        ({"train": {"batch_size": 10, "micro_batch_size": 4}}, "must be a multiple of"),
    ],
)
def test_a_wrong_run_is_refused_with_its_reason(settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        check_run(validate(RunConfig, settings, source="test"))


def test_the_defaults_are_a_run():
    check_run(RunConfig())


def test_variants_that_cannot_be_asked():
    with pytest.raises(ConfigError, match=r"held_back=250' needs evaluate\.max_new_tokens >= 250, got 64"):
        check_run(RunConfig.model_validate({"evaluate": {"variants": ["held_back"], "max_new_tokens": 64}}))
    with pytest.raises(ConfigError, match="must differ from each other"):
        check_run(RunConfig.model_validate({"evaluate": {"variants": ["long", "long"]}}))
    with pytest.raises(UnknownNameError, match="Did you mean 'long'"):
        check_run(RunConfig.model_validate({"evaluate": {"variants": ["lonk"]}}))
