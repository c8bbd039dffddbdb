"""A recipe with the settings of the command line."""

import argparse
from pathlib import Path
from typing import Any

from neftune.cli.terminal import show
from neftune.config import Recipe, RunConfig
from neftune.errors import ConfigError
from neftune.recipe import read_recipe, validate


def read_with_knobs(options: argparse.Namespace, knobs: list[str]) -> Recipe:
    """The recipe with the command line's settings."""
    path: Path | None = options.recipe
    recipe = read_recipe(path) if path else Recipe(name="recipe")
    if options.help or not path:
        _help(options, recipe)
    return with_knobs(recipe, options, knobs)


def with_knobs(recipe: Recipe, options: argparse.Namespace, knobs: list[str]) -> Recipe:
    """The recipe with settings of the command line."""
    import tyro

    if options.skip_bad:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"skip_bad": True})})
    if not knobs:
        return recipe
    return tyro.cli(Recipe, prog=f"neftune {options.verb} {options.recipe or ''}".strip(), default=recipe, args=knobs)


def _help(options: argparse.Namespace, recipe: Recipe) -> None:
    """Print what the verb takes and every setting of a recipe, and end."""
    import tyro

    from neftune.cli.main import verb_help

    show(verb_help(options.verb))
    if not options.help:
        raise ConfigError(f"{options.verb} needs a recipe, e.g. neftune {options.verb} recipes/quickstart.yaml.")
    tyro.cli(Recipe, prog=f"neftune {options.verb} RECIPE", default=recipe, args=["--help"])


def named_knobs(knobs: list[str]) -> list[str]:
    """The dotted settings that the command line names."""
    return [knob[2:].split("=")[0].replace("-", "_") for knob in knobs if knob.startswith("--")]


def refuse_axes(recipe: Recipe, knobs: list[str]) -> None:
    """Refuse a setting that an axis of the study would override."""
    study = recipe.study
    kinds = {"scientific": study.scientific, "blocks": study.blocks, "nuisance": study.nuisance}
    for kind, axes in kinds.items():
        for knob in set(named_knobs(knobs)) & set(axes):
            raise ConfigError(
                f"--{knob} is an axis of this study ({axes[knob]}), which would override it. "
                f"Set the axis: --study.{kind}.{knob} VALUES."
            )


def refuse_several_arms(recipe: Recipe) -> None:
    """Refuse to guess which arm of a study is to be trained."""
    unset = recipe.noise.alpha is None and recipe.noise.nsr is None
    if unset and any(knob.startswith("noise.") for knob in recipe.study.scientific):
        raise ConfigError(
            "train takes one arm of this study, got none. Say how much noise: --noise.alpha 5 (0 for the baseline)."
        )


def only_sections(knobs: list[str], sections: tuple[str, ...], verb: str) -> None:
    """Refuse settings that would not be obeyed."""
    for knob in named_knobs(knobs):
        if knob.split(".")[0] not in sections:
            raise ConfigError(f"{verb} takes settings of {' and '.join(sections)} only, got --{knob}.")


def first_run(recipe: Recipe) -> RunConfig:
    """The one run of a recipe that has no axes: its first seed."""
    values = recipe.model_dump(mode="json", exclude={"name", "question", "study"})
    return validate(RunConfig, {**values, "seed": recipe.study.seeds[0]}, source=recipe.name)


def recipe_of_run(config: Any, name: str) -> dict[str, Any]:
    """A run's settings as those of a recipe with one seed."""
    values = {key: value for key, value in config.items() if key not in ("seed", "stop_at_train_loss_of")}
    return {"name": name, **values, "study": {"seeds": [config["seed"]]}}
