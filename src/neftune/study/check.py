"""What can be wrong with a run without loading anything: found before the first one starts."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from neftune.config import BenchmarksConfig, Recipe, RunConfig
from neftune.errors import ConfigError
from neftune.records import PARTS

if TYPE_CHECKING:
    from neftune.evaluation.benchmarks.tasks import TaskOptions


def check_run(config: RunConfig) -> None:
    """Refuse a run that names something unregistered or asks for what does not go together.

    Raises:
        UnknownNameError: A name is in no registry.
        ConfigError: Two settings contradict each other.
    """
    from neftune.data.formats import formats
    from neftune.data.prompts import templates
    from neftune.evaluation.judges import judges
    from neftune.noise.distributions import distributions
    from neftune.noise.schedules import schedules
    from neftune.training.trainer import micro_batch_size

    _check_training(config)
    distributions[config.noise.distribution]
    schedules[config.noise.schedule]
    if config.data.format != "auto":
        formats[config.data.format]
    if config.data.template != "auto":
        templates[config.data.template]
    if config.evaluate.rule_judge:
        judges[config.evaluate.rule_judge](config.data)
    _check_variants(config)
    if config.evaluate.benchmarks.tasks:
        _check_benchmarks(config.evaluate.benchmarks.model_dump_json())
    micro_batch_size(config.train)
    if config.model.path == "microworld" and config.data.source != "microworld":
        raise ConfigError(
            f"model.path 'microworld' knows the microworld alone, got data.source {config.data.source!r}. "
            "Name a model with --model.path."
        )


def check_recipe(recipe: Recipe) -> None:
    """Refuse a study that could choose nothing, or judge nothing.

    Raises:
        ConfigError: The part on which choices are made, or the one that is judged, is not evaluated, or a control
            variant cannot be asked.
        UnknownNameError: A control variant or a benchmark is in no registry.
        DataError: A benchmark's file is missing or broken.
    """
    if not {"heldout", "test"} <= set(recipe.evaluate.parts):
        raise ConfigError(
            "evaluate.parts must have heldout (choices are made on it) and test (judged on), "
            f"got {recipe.evaluate.parts}."
        )
    # Before a confirmation no run is asked under variants or given benchmarks: what is wrong with them would be found
    # at its end.
    _check_variants(RunConfig(evaluate=recipe.evaluate))
    if recipe.evaluate.benchmarks.tasks:
        _check_benchmarks(recipe.evaluate.benchmarks.model_dump_json())


def _check_training(config: RunConfig) -> None:
    from neftune.training.optimizers import check_optimizer, require_library
    from neftune.training.regularizers import make_regularizers

    check_optimizer(config.train)
    for regularizer in make_regularizers(config.train.regularizers):
        regularizer.check(config.train, config.model)
    quantization = config.model.quantization
    if quantization is not None:
        require_library("bitsandbytes", f"model.quantization {quantization!r}")
    if quantization is not None and config.model.adapter == "none":
        raise ConfigError(
            f"weights held in {quantization} cannot be trained (they have no gradients), only adapters on them; got "
            "model.adapter 'none'. Set --model.adapter lora, which with nf4 is QLoRA, or --model.quantization null."
        )


def _check_variants(config: RunConfig) -> None:
    from neftune.evaluation.variants import make_variant

    settings = config.evaluate
    for variant in map(make_variant, settings.variants):
        if variant.min_new_tokens > settings.max_new_tokens:
            raise ConfigError(
                f"evaluate.variants {variant.name!r} needs evaluate.max_new_tokens >= {variant.min_new_tokens}, got "
                f"{settings.max_new_tokens}. Raise it, or hold back for fewer tokens."
            )
    if len(set(settings.variants)) != len(settings.variants):
        raise ConfigError(f"evaluate.variants must differ from each other, got {settings.variants}.")


def task_options(settings: BenchmarksConfig) -> "TaskOptions":
    """Where the tasks' data and definitions come from."""
    from neftune.evaluation.benchmarks.tasks import TaskOptions

    data, task_folder = (None if one is None else Path(one) for one in (settings.data, settings.task_folder))
    return TaskOptions(data=data, task_folder=task_folder)


@functools.cache
def _check_benchmarks(settings: str) -> None:
    """Read every task once, so that a missing or broken file is found before the first run."""
    from neftune.evaluation.benchmarks.tasks import load_tasks

    asked = BenchmarksConfig.model_validate_json(settings)
    for task in load_tasks(asked.tasks, task_options(asked)):
        if task.name in PARTS:
            raise ConfigError(f"a benchmark must not be named as a part of the data, got {task.name!r}.")
