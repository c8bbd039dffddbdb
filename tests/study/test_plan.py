"""A recipe's runs: complete, paired, named by what determines them."""

from typing import Any

import pytest

from neftune.config import DataConfig, Recipe, RunConfig
from neftune.errors import ConfigError
from neftune.recipe import validate
from neftune.records import PlannedRun
from neftune.study.arms import setting_name
from neftune.study.plan import Identify
from tests.staged import plan_of


def plan(study: dict[str, Any], *, code: str = "c", **sections: Any) -> tuple[PlannedRun, ...]:
    recipe = validate(Recipe, {"name": "r", "study": study, **sections}, source="test")
    return plan_of(recipe, Identify(data_fingerprint=_data, model_fingerprint=_model, code_version=code)).planned


def _data(data: DataConfig) -> str:
    return f"{data.source}{data.seed}{data.num_train}"


def _model(run: RunConfig) -> str:
    return run.model.path


def test_every_arm_block_and_seed_is_planned_once():
    runs = plan({"scientific": {"noise.nsr": [0, 0.3]}, "blocks": {"data.seed": [0, 1]}, "seeds": [0, 1, 2]})
    labels = [(run.block, run.arm, run.seed) for run in runs]
    assert len(set(labels)) == len(labels) == 12
    assert {run.arm for run in runs} == {"baseline", "nsr=0.3"}
    assert {run.block for run in runs} == {"world=0", "world=1"}
    assert len({run.run_id for run in runs}) == 12


def test_first_runs_come_from_different_blocks():
    runs = plan({"scientific": {"noise.nsr": [0, 0.3]}, "blocks": {"data.seed": [0, 1]}})
    assert {runs[0].block, runs[1].block} == {"world=0", "world=1"}


def test_every_way_to_say_no_noise_is_one_baseline():
    by_alpha = plan({"scientific": {"noise.alpha": [0, 5]}, "seeds": [0]})
    by_ratio = plan({"scientific": {"noise.nsr": [0, 0.3]}, "seeds": [0]}, noise={"distribution": "gaussian"})
    assert by_alpha[0].is_baseline
    assert by_ratio[0].run_id == by_alpha[0].run_id
    assert by_ratio[1].run_id != by_alpha[1].run_id


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"learning_rate": 1e-3}},
        {"data": {"num_train": 7}},
        {"model": {"path": "other"}},
        {"evaluate": {"max_new_tokens": 9}},
    ],
)
def test_what_determines_a_result_changes_its_id(change: dict[str, Any]):
    study = {"scientific": {"noise.alpha": [0]}, "seeds": [0]}
    assert plan(study)[0].run_id != plan(study, **change)[0].run_id


def test_code_and_data_are_part_of_the_id():
    study = {"scientific": {"noise.alpha": [0]}, "seeds": [0]}
    assert plan(study)[0].run_id != plan(study, code="d")[0].run_id
    recipe = validate(Recipe, {"name": "r", "study": study}, source="test")
    other = plan_of(recipe, Identify(data_fingerprint=lambda _: "x", model_fingerprint=_model, code_version="c"))
    assert plan(study)[0].run_id != other.planned[0].run_id


def test_names_and_questions_are_not_part_of_the_id():
    study = {"scientific": {"noise.alpha": [0]}, "seeds": [0]}
    renamed = validate(Recipe, {"name": "s", "question": "why?", "study": study}, source="test")
    other = plan_of(renamed, Identify(data_fingerprint=_data, model_fingerprint=_model, code_version="c"))
    assert plan(study)[0].run_id == other.planned[0].run_id


def test_control_waits_for_its_noisy_twin_of_the_same_seed_and_block():
    runs = plan(
        {
            "scientific": {"noise.nsr": [0, 0.6]},
            "blocks": {"data.seed": [0, 1]},
            "seeds": [0, 1],
            "controls": [{"kind": "equal_train_loss", "match": {"noise.nsr": 0.6}}],
        }
    )
    controls = [run for run in runs if run.is_control]
    by_id = {run.run_id: run for run in runs}
    assert len(controls) == 4
    for control in controls:
        twin = by_id[control.after or ""]
        assert (twin.block, twin.seed, twin.arm) == (control.block, control.seed, "nsr=0.6")
        assert control.config["noise"]["alpha"] == 0
        assert control.config["stop_at_train_loss_of"] == twin.run_id
        assert not control.is_baseline


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"scientific": {"noise.alfa": [0, 5]}}, r"'noise\.alfa'.*Did you mean 'noise\.alpha'"),
        ({"scientific": {"noise.alpha": [5, 15]}}, "needs an arm without noise.*got 0 of 2"),
        ({"arms": [{"noise.alpha": 5}, {"noise.nsr": 0.5}]}, "needs an arm without noise.*got 0 of 2"),
        ({"arms": [{}, {"noise.alpha": 5}, {"noise.alpha": 5}]}, "arms must differ"),
        ({"arms": [{}, {"noise.alfa": 5}]}, r"'noise\.alfa'.*Did you mean 'noise\.alpha'"),
        ({"arms": [{}, {"data.source": "x"}]}, "Put it under blocks"),
        ({"nuisance": {"noise.alpha": [0, 1]}}, "belongs to one kind of axis"),
        ({"nuisance": {"noise.nsr": [0, 1]}}, r"tells it from the baseline, got noise\.nsr in study\.nuisance"),
        ({"blocks": {"noise.nsr": [0, 1]}}, r"tells it from the baseline, got noise\.nsr in study\.blocks"),
        ({"nuisance": {"data.seed": [0, 1]}}, "changes what is asked"),
        (
            {"arms": [{"noise.alpha": 0}, {"train.epochs": 5}], "nuisance": {"train.epochs": [1, 2]}},
            r"got train\.epochs in study\.arms and study\.nuisance",
        ),
        (
            {"arms": [{"noise.alpha": 0}, {"train.epochs": 5}], "blocks": {"train.epochs": [1, 2]}},
            r"got train\.epochs in study\.arms and study\.blocks",
        ),
        (
            {"search": {"knob": "noise.nsr", "refine": 0}, "nuisance": {"noise.nsr": [1, 2]}},
            r"got noise\.nsr in study\.search and study\.nuisance",
        ),
        (
            {"confirm_seeds": [9], "controls": [{"match": {"noise.alpha": 5}}]},
            "the twin of the arm that will be chosen",
        ),
        (
            {
                "arms": [{"noise.alpha": 0}, {"train.batch_size": 8}, {"evaluate.batch_size": 8}],
                "nuisance": {"train.learning_rate": [1e-4, 2e-4]},
            },
            "names of their own",
        ),
        ({"nuisance": {"train.lr": [0.1]}}, "Did you mean"),
        ({"nuisance": {"model.lora.r": [8, 16]}}, "no run of this study has one"),
        ({"arms": [{}, {"noise.alpha": 5, "model.lora.r": 8}]}, "no run of this study has one"),
        ({"arms": [{}, {"noise.alpha": 5, "evaluate.parts": ["test"]}]}, "'evaluate.parts'"),
        ({"nuisance": {"train.learning_rate": []}}, "one or more different values"),
        ({"search": {"knob": "noise.nsr"}}, "confirmed on fresh seeds"),
        ({"search": {"knob": "noise.nsr", "refine": 0}, "arms": [{}]}, "whole design"),
        ({"search": {"knob": "noise.nsr", "refine": 0}, "scientific": {"noise.nsr": [0]}}, "whole design"),
        ({"search": {"knob": "noise.nsr", "low": 2, "high": 2}}, "low < high"),
        ({"search": {"knob": "noise.nsr", "low": 1, "high": 1.01, "points": 20, "refine": 0}}, "of which 2 do"),
        ({"confirm_seeds": [0, 9]}, r"must be untouched, got \[0\]"),
        ({"confirm_seeds": [1000], "nuisance": {"train.epochs": [1]}}, r"must be untouched, got \[1000\]"),
        ({"scientific": {"noise.alpha": [0, 5, 5]}}, "different values"),
        ({"scientific": {"noise.alpha": [0, -5]}}, "greater than or equal to 0, got -5"),
        ({"seeds": [0, 0]}, "seeds must be different whole numbers"),
        ({"controls": [{"match": {"noise.alpha": 9}}]}, "must be one of the arms"),
        ({"controls": [{"match": {"noise.alpha": 0}}]}, "must match a noisy arm"),
    ],
)
def test_a_wrong_study_is_refused_with_its_reason(study: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        plan(study)


def test_a_factorial_compares_each_noisy_arm_with_the_same_arm_without_noise():
    axes = {"noise.alpha": [0, 5], "train.weight_decay": [0, 0.1], "model.adapter": ["none", "lora"]}
    runs = plan({"scientific": axes, "seeds": [0]})
    against = {run.arm: run.against for run in runs}
    assert len(runs) == 8
    assert [run.arm for run in runs if run.is_baseline] == ["baseline"]
    assert against["alpha=5, weight_decay=0, adapter=none"] == "baseline"
    assert against["alpha=5, weight_decay=0.1, adapter=lora"] == "alpha=0, weight_decay=0.1, adapter=lora"
    assert against["alpha=0, weight_decay=0.1, adapter=lora"] == "baseline"
    assert {run.arm for run in runs if run.is_noisy} == {name for name in against if name.startswith("alpha=5")}
    assert runs[-1].setting == {"noise.alpha": 5, "train.weight_decay": 0.1, "model.adapter": "lora"}


def test_one_baseline_where_an_axis_changes_the_noise_alone():
    runs = plan({"scientific": {"noise.alpha": [0, 5], "noise.distribution": ["uniform", "gaussian"]}, "seeds": [0]})
    assert [run.arm for run in runs] == ["baseline", "alpha=5, distribution=uniform", "alpha=5, distribution=gaussian"]
    assert {run.against for run in runs} == {"baseline"}


def test_arms_one_by_one_stand_alone_or_beside_the_product():
    alone = plan({"arms": [{}, {"noise.alpha": 5}, {"train.epochs": 5}], "seeds": [0]})
    assert [run.arm for run in alone] == ["baseline", "alpha=5", "epochs=5"]
    assert [run.is_noisy for run in alone] == [False, True, False]
    beside = plan(
        {"scientific": {"noise.alpha": [0, 5]}, "arms": [{"noise.alpha": 5, "train.epochs": 5}], "seeds": [0]}
    )
    assert [run.arm for run in beside] == ["baseline", "alpha=5", "alpha=5, epochs=5"]
    assert beside[2].against == "baseline"


def test_models_and_data_sets_on_a_scientific_axis_are_blocks():
    runs = plan({"scientific": {"noise.alpha": [0, 5], "model.path": ["a", "b"]}, "seeds": [0]})
    assert {(run.block, run.arm) for run in runs} == {
        (block, arm) for block in ("model=a", "model=b") for arm in ("baseline", "alpha=5")
    }


def test_large_and_close_values_keep_names_of_their_own():
    names = {run.block for run in plan({"blocks": {"data.seed": [20240101, 20240102]}, "seeds": [0]})}
    assert names == {"world=20240101", "world=20240102"}
    assert setting_name({"noise.alpha": 5.000001}) == "alpha=5.000001"


def test_setting_names_are_short_and_exact():
    assert setting_name({"noise.nsr": 0.3, "train.epochs": 2.0}) == "nsr=0.3, epochs=2"
    assert setting_name({}) == ""
