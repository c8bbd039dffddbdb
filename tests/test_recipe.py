"""Recipes: every setting read, every typo answered."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neftune.config import Recipe
from neftune.errors import ConfigError
from neftune.recipe import knob_names, read_recipe, validate, with_overrides, write_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_reads_and_writes_back_unchanged(path: Path, tmp_path: Path):
    recipe = read_recipe(path)
    write_recipe(recipe, tmp_path / "r.yaml")
    assert read_recipe(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: x\ntrain: {learning_rat: 1}",
            r"'train\.learning_rat' is not a setting\. Did you mean 'train\.learning_r",
        ),
        ("name: x\ntrian: {}", r"'trian' is not a setting\. Did you mean 'train'"),
        ("name: x\nnoise: {alpha: -5}", r"noise\.alpha: input should be greater than or equal to 0, got -5"),
        ("name: x\nnoise: {alpha: .nan}", r"noise\.alpha.*finite.*nan"),
        ("name: x\nnoise: {alpha: 5, nsr: 1}", r"noise takes alpha or nsr, got both.*Remove one"),
        ("name: ../x", r"name: string should match pattern"),
        ("train: {}", "name is required"),
        ("name: x\nname: y", "line 1.*'name' is given twice"),
        ("name: x\nstudy: {decision: {harm_tolerance: {loss: 1}}}", "harm_tolerance takes tolerances"),
        ("- a", "must hold a mapping"),
        ("a: [", r"line 1.*must be YAML"),
        ("", "must hold a mapping"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_reason(tmp_path: Path, text: str, message: str):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(path)


def test_a_missing_recipe_names_the_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        read_recipe(tmp_path / "none.yaml")


def test_yaml_numbers_in_scientific_notation_are_numbers():
    assert validate(Recipe, {"name": "x", "train": {"learning_rate": "5e-5"}}, source="t").train.learning_rate == 5e-5


def test_one_scale_of_the_noise_replaces_the_other():
    values = with_overrides({"noise": {"alpha": 5.0, "nsr": None}}, {"noise.nsr": 0.3})
    assert values["noise"] == {"alpha": None, "nsr": 0.3}


@given(st.sampled_from(knob_names(Recipe)))
def test_a_knob_with_one_letter_missing_is_recognised(name: str):
    group, _, last = name.rpartition(".")
    typo = last[:-1] + "_"
    values = with_overrides({"name": "x"}, {f"{group}.{typo}" if group else typo: 1})
    with pytest.raises(ConfigError, match="is not a setting"):
        validate(Recipe, values, source="t")


def test_overrides_leave_the_base_alone():
    base = {"train": {"epochs": 1}}
    assert with_overrides(base, {"train.epochs": 2}) == {"train": {"epochs": 2}}
    assert base == {"train": {"epochs": 1}}
