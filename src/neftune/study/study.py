"""A whole study: plan, perform, read back."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from neftune.config import Recipe, RunConfig
from neftune.errors import StoreError
from neftune.recipe import write_recipe
from neftune.records import PlannedRun, StudyResult
from neftune.study.check import check_run
from neftune.study.executors import Status, executors
from neftune.study.identity import code_version, data_fingerprint, evaluation_fingerprint, model_fingerprint
from neftune.study.plan import make_plan
from neftune.study.store import Store


def plan_study(recipe: Recipe) -> tuple[PlannedRun, ...]:
    """Every run of a recipe; reads the data, so that what is wrong with it is found before any run.

    Raises:
        ConfigError, UnknownNameError, DataError: The recipe or its data is wrong.
    """
    planned = make_plan(
        recipe,
        data_fingerprint=data_fingerprint,
        model_fingerprint=model_fingerprint,
        evaluation_fingerprint=evaluation_fingerprint,
        code_version=code_version(),
    )
    for run in planned:
        check_run(RunConfig.model_validate(run.config))
    return planned


def run_study(
    recipe: Recipe,
    *,
    root: Path,
    workers: int,
    threads: int = 1,
    watch: Callable[[Status], None] = lambda _: None,
) -> StudyResult:
    """Perform what is not yet done of a study, and return all of it.

    Args:
        recipe: The study.
        root: Folder of all runs and studies.
        workers: Runs at a time.
        threads: CPU threads per run.
        watch: Told where the runs stand.

    Raises:
        ConfigError, DataError: The recipe or its data is wrong.
        StoreError: The plan cannot be written.
    """
    store = Store(root)
    planned = plan_study(recipe)
    store.write_study(recipe.name, recipe.model_dump(mode="json"), planned)
    folder = store.study_folder(recipe.name)
    try:
        write_recipe(recipe, folder / "recipe.yaml")
    except OSError as error:
        raise StoreError(f"{folder} could not be written: {error.strerror}.") from error
    status = executors["local"](store, planned, workers=workers, threads=threads, watch=watch)
    for failure in status.failed.values():
        with contextlib.suppress(StoreError):
            store.write_failure(failure)
    result = store.result(recipe.model_dump(mode="json"), planned)
    return replace(result, failures={**result.failures, **status.failed})
