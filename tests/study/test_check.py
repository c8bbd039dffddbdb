"""What is wrong with a run is found before it starts."""

from typing import Any

import pytest

from neftune.config import Recipe, RunConfig
from neftune.errors import ConfigError, DataError, InputError, UnknownNameError
from neftune.recipe import validate
from neftune.study.check import check_recipe, check_run
from tests.evaluation.benchmarks.published_rows import write_published


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
        ({"train": {"batch_size": 10, "micro_batch_size": 4}}, "must be a multiple of"),
    ],
)
def test_a_wrong_run_is_refused_with_its_reason(settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        check_run(validate(RunConfig, settings, source="test"))


def test_a_study_must_have_a_part_to_choose_on_and_one_to_judge_on():
    for parts in (["test"], ["heldout"], ["train"]):
        with pytest.raises(ConfigError, match="must have heldout"):
            check_recipe(Recipe.model_validate({"name": "r", "evaluate": {"parts": parts}}))
    check_recipe(Recipe(name="r"))


def test_the_defaults_are_a_run():
    check_run(RunConfig())


def test_variants_that_cannot_be_asked():
    with pytest.raises(ConfigError, match=r"held_back=250' needs evaluate\.max_new_tokens >= 250, got 64"):
        check_run(RunConfig.model_validate({"evaluate": {"variants": ["held_back"], "max_new_tokens": 64}}))
    with pytest.raises(ConfigError, match="must differ from each other"):
        check_run(RunConfig.model_validate({"evaluate": {"variants": ["long", "long"]}}))
    with pytest.raises(UnknownNameError, match="Did you mean 'long'"):
        check_run(RunConfig.model_validate({"evaluate": {"variants": ["lonk"]}}))


def test_benchmarks_are_read_before_the_first_run(tmp_path):
    def check(**benchmarks: object) -> None:
        check_run(RunConfig.model_validate({"evaluate": {"benchmarks": benchmarks}}))

    with pytest.raises(UnknownNameError, match="Did you mean 'arc_challenge'"):
        check(tasks=["arc_chalenge"], data=str(write_published(tmp_path)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="ARC-Challenge"):
        check(tasks=["arc_challenge"], data=str(tmp_path / "empty"))
    check(tasks=["truthfulqa_mc2"], data=str(write_published(tmp_path / "all")))
