"""What is wrong with a run is found before it starts."""

from pathlib import Path
from typing import Any

import pytest

from neftune.config import ModelConfig, Recipe, RunConfig, TrainConfig
from neftune.errors import ConfigError, DataError, InputError, UnknownNameError
from neftune.recipe import read_recipe, validate, with_overrides
from neftune.study.arms import arms_of, run_config, settings_of
from neftune.study.check import check_recipe, check_run
from neftune.study.identity import model_fingerprint, versions
from neftune.study.plan import Identify, run_id
from neftune.training.regularizers import regularizers
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
        ({"train": {"regularizers": {"dropuot": 0.1}}}, "Did you mean 'dropout'"),
        (
            {"train": {"regularizers": {"dropout": 1.5}}},
            r"train\.regularizers\.dropout: strength: .* less than 1, got 1.5",
        ),
        ({"train": {"regularizers": {"r3f": {"strength": 1, "epz": 1}}}}, "Did you mean 'eps'"),
        ({"train": {"regularizers": {"noisytune": 0.1}}, "model": {"adapter": "lora"}}, "Set model.adapter to none"),
        ({"train": {"optimizer": "lyon"}}, "Did you mean 'lion'"),
        ({"train": {"optimizer": "schedule_free_adamw"}}, "Set --train.schedule constant"),
        ({"train": {"freeze": ["heads"]}}, r"'embeddings', 'head', .*got 'heads'"),
        ({"model": {"quantization": "nf4"}}, "cannot be trained .* Set --model.adapter lora, which with nf4 is QLoRA"),
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


def test_variants_that_only_a_confirmation_asks_are_checked_before_the_first_run():
    recipe = {"name": "x", "evaluate": {"variants": ["lonk"]}, "study": {"confirm_seeds": [100]}}
    with pytest.raises(UnknownNameError, match="Did you mean 'long'"):
        check_recipe(Recipe.model_validate(recipe))


def test_benchmarks_are_read_before_the_first_run(tmp_path):
    def check(**benchmarks: object) -> None:
        check_run(RunConfig.model_validate({"evaluate": {"benchmarks": benchmarks}}))

    with pytest.raises(UnknownNameError, match="Did you mean 'arc_challenge'"):
        check(tasks=["arc_chalenge"], data=str(write_published(tmp_path)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="ARC-Challenge"):
        check(tasks=["arc_challenge"], data=str(tmp_path / "empty"))
    check(tasks=["truthfulqa_mc2"], data=str(write_published(tmp_path / "all")))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"dropout": 0}, {}),
        ({"dropout": None}, {}),
        ({"freelb": {"strength": 0, "steps": 4}}, {}),
        ({"r3f": {"strength": 1}, "dropout": 0.1}, {"dropout": 0.1, "r3f": 1.0}),
        ({"freelb": {"strength": 1, "steps": 4}}, {"freelb": {"strength": 1.0, "steps": 4.0}}),
    ],
)
def test_one_strength_is_said_in_one_way(said: dict[str, Any], kept: dict[str, Any]):
    runs = [RunConfig.model_validate({"train": {"regularizers": one}}) for one in (said, kept)]
    assert runs[0].train.regularizers == kept
    ids = [run_id(run, data="d", model="m", code_version="c") for run in runs]
    assert ids[0] == ids[1]


def test_only_runs_that_use_a_library_depend_on_its_version():
    plain = RunConfig(model=ModelConfig(path="somewhere/model"))
    lion = plain.model_copy(update={"train": TrainConfig(optimizer="lion")})
    nf4 = plain.model_copy(update={"model": ModelConfig(path="somewhere/model", adapter="lora", quantization="nf4")})
    assert model_fingerprint(plain) == "somewhere/model"
    assert "bitsandbytes" not in versions(plain)
    for run in (lion, nf4):
        assert model_fingerprint(run) == f"somewhere/model bitsandbytes {versions(run)['bitsandbytes']}"


@pytest.mark.parametrize("order", [("adamw", "lion"), ("lion", "adamw")])
def test_a_planned_run_has_the_id_that_its_worker_finds(order: tuple[str, str]):
    prints = {"data_fingerprint": lambda _: "d", "model_fingerprint": model_fingerprint, "code_version": "c"}
    together = Identify(**prints)
    path = "somewhere/model"
    runs = [RunConfig(model=ModelConfig(path=path), train=TrainConfig(optimizer=one)) for one in order]
    runs.append(RunConfig(model=ModelConfig(path=path, adapter="lora", quantization="nf4")))
    # The worker knows its own run alone.
    assert [together(run) for run in runs] == [Identify(**prints)(run) for run in runs]


def test_every_arm_of_the_recipe_of_combinations_can_run():
    recipe = read_recipe(Path(__file__).parents[2] / "recipes" / "combinations.yaml")
    arms = arms_of(recipe)
    for arm in arms:
        check_run(run_config(with_overrides(settings_of(recipe), arm.setting)))
    used = {knob.split(".")[2] for arm in arms for knob in arm.setting if knob.startswith("train.regularizers.")}
    assert used == set(regularizers)
    by_name = {arm.name: arm for arm in arms}
    assert by_name["nsr=0.3, freelb=0.1, freelb steps=2"].against == "nsr=0, freelb=0.1, freelb steps=2"


def test_a_strength_can_be_an_axis_and_0_in_it_is_the_plain_baseline():
    axes = {"noise.alpha": [0, 5], "train.regularizers.dropout": [0, 0.1]}
    recipe = Recipe.model_validate({"name": "x", "study": {"scientific": axes}})
    configs = [run_config(with_overrides(settings_of(recipe), arm.setting)) for arm in arms_of(recipe)]
    assert [config.train.regularizers for config in configs] == [{}, {"dropout": 0.1}, {}, {"dropout": 0.1}]
    assert configs[0] == run_config({"noise": {"alpha": 0}})


def test_benchmarks_that_only_the_confirmation_asks_for_are_read_before_the_first_run(tmp_path):
    settings = {"benchmarks": {"tasks": ["arc_challenge"], "data": str(tmp_path)}}
    recipe = Recipe.model_validate({"name": "r", "evaluate": settings, "study": {"confirm_seeds": [9]}})
    with pytest.raises(DataError, match="ARC-Challenge"):
        check_recipe(recipe)
