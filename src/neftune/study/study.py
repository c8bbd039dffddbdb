"""A whole study: plan what can be known, perform it, plan on from what was found, read back."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from neftune.config import Recipe, RunConfig
from neftune.errors import StoreError
from neftune.recipe import write_recipe
from neftune.records import Failure, PlannedRun, StudyResult
from neftune.study.check import check_recipe, check_run
from neftune.study.executors import Resources, Watch, executors
from neftune.study.identity import code_version, data_fingerprint, evaluation_fingerprint, model_fingerprint
from neftune.study.plan import Identify, Planner
from neftune.study.stages import Choosing, SoFar, plan_so_far
from neftune.study.store import Store
from neftune.training.checkpoints import remove_checkpoints


def make_planner(recipe: Recipe) -> Planner:
    """Makes a recipe's runs; reads the data, so that what is wrong with it is found before any run.

    Raises:
        ConfigError, UnknownNameError, DataError: The recipe or its data is wrong.
    """
    identify = Identify(
        data_fingerprint=data_fingerprint,
        model_fingerprint=model_fingerprint,
        evaluation_fingerprint=evaluation_fingerprint,
        code_version=code_version(),
    )
    return Planner(recipe, identify)


def run_study(
    recipe: Recipe,
    *,
    root: Path,
    choosing: Choosing,
    executor: str = "local",
    resources: Resources | None = None,
    watch: Watch = lambda _: None,
) -> StudyResult:
    """Perform what is not yet done of a study, stage by stage, and return all of it.

    Args:
        recipe: The study.
        root: Folder of all runs and studies.
        choosing: Says on the held-out part which settings and arms are best (`neftune.analysis.choosing.HeldOut`).
        executor: Who performs the runs: a registered executor.
        resources: What the runs may use; None: one thread a run, as many runs as there are cores or GPUs.
        watch: Told where the runs stand.

    Raises:
        ConfigError, DataError, UnknownNameError: The recipe, its data or the resources are wrong.
        StoreError: The plan cannot be written.
        StudyError: An early stage failed so that no later one has anything to rest on.
    """
    perform_all = executors[executor]
    check_recipe(recipe)
    store, planner = Store(root), make_planner(recipe)
    values = recipe.model_dump(mode="json")
    failed: dict[str, Failure] = {}

    def results(planned: Sequence[PlannedRun]) -> StudyResult:
        # A failure of an earlier start is not final: its run is tried again.
        return replace(store.result(values, tuple(planned)), failures=failed)

    while True:
        so_far = plan_so_far(recipe, planner, results, choosing)
        _check(so_far.planned)
        _write(store, recipe, so_far)
        todo = [run for run in so_far.planned if run.run_id not in failed]
        if all(store.is_done(run.run_id) for run in todo) and so_far.to_come:
            raise StoreError(f"{root} lost results while the study was running. Start it again.")
        status = perform_all(store, todo, resources=resources or Resources(), watch=watch)
        failed |= status.failed
        for failure in status.failed.values():
            with contextlib.suppress(StoreError):
                store.write_failure(failure)
        if not so_far.to_come:
            break
    _clean(store, so_far.planned)
    result = store.result(values, so_far.planned)
    notes = (*so_far.notes, *store.read_plan(recipe.name).earlier)
    return replace(result, failures={**result.failures, **failed}, notes=notes)


def _clean(store: Store, planned: Sequence[PlannedRun]) -> None:
    """Remove the checkpoints of finished runs: a kill can come between a result and their removal."""
    for run in planned:
        if store.is_done(run.run_id):
            remove_checkpoints(store.run_folder(run.run_id))


def _check(planned: Sequence[PlannedRun]) -> None:
    """Refuse a plan with a run that could not start; runs that differ in their seed alone are one."""
    seen: set[str] = set()
    for run in planned:
        config = RunConfig.model_validate(run.config)
        text = config.model_copy(update={"seed": 0, "stop_at_train_loss_of": None}).model_dump_json()
        if text not in seen:
            seen.add(text)
            check_run(config)


def _write(store: Store, recipe: Recipe, so_far: SoFar) -> None:
    store.write_study(
        recipe.name, recipe.model_dump(mode="json"), so_far.planned, to_come=so_far.to_come, notes=so_far.notes
    )
    folder = store.study_folder(recipe.name)
    try:
        write_recipe(recipe, folder / "recipe.yaml")
    except OSError as error:
        raise StoreError(f"{folder} could not be written: {error.strerror}.") from error
