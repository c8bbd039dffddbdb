"""`neftune study RECIPE`: every run of a study, its verdict and its page."""

import argparse
import os

from neftune.cli.executor_options import study_resources
from neftune.cli.knobs import read_with_knobs, refuse_axes
from neftune.cli.terminal import say, show
from neftune.config import LATER
from neftune.records import StudyResult
from neftune.study.store import Store, write_json


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune study RECIPE`."""
    from neftune.analysis.choosing import HeldOut, check_choices
    from neftune.analysis.verdict import check_rule
    from neftune.cli.estimate import check_options, dry_run
    from neftune.cli.progress import Progress
    from neftune.study.executors import executors
    from neftune.study.study import run_study

    recipe = read_with_knobs(options, knobs)
    check_options(options)
    refuse_axes(recipe, knobs)
    judge = recipe.evaluate.judge
    check_rule(recipe.study.decision, has_judge=judge is not None, judges_later=judge == LATER)
    check_choices(recipe)
    resources = study_resources(options)
    executors[options.executor]
    if options.dry_run:
        workers = resources.workers or max(1, (os.cpu_count() or 1) // resources.threads)
        return dry_run(recipe, options, workers=workers)
    store = Store(options.out)
    num_seeds = len(recipe.study.seeds)
    say(f"study {recipe.name}: {recipe.question or 'does the noise help?'}  ({num_seeds} seeds)")
    with Progress(store) as progress:
        result = run_study(
            recipe,
            root=options.out,
            choosing=HeldOut(),
            executor=options.executor,
            resources=resources,
            watch=progress,
        )
    write_study_report(store, recipe.name, result)
    _say_failures(result)
    return _exit_code(result)


def write_study_report(store: Store, name: str, result: StudyResult) -> None:
    """A study's page, its summary in the terminal and as JSON, with its variants and what a judge preferred."""
    from neftune.report.page import write_report
    from neftune.report.summary import summary_data, terminal_summary
    from neftune.study.judged import with_judged
    from neftune.study.variants import with_variants

    result = with_judged(with_variants(result), store.study_folder(name))
    folder = store.study_folder(name)
    write_json(folder / "summary.json", summary_data(result))
    path = write_report(result, folder / "report.html")
    show(terminal_summary(result))
    show(f"report: {path}")


def _say_failures(result: StudyResult) -> None:
    """One line for every reason that runs failed for."""
    reasons: dict[str, list[str]] = {}
    for failure in result.failures.values():
        reasons.setdefault(failure.message, []).append(failure.run_id)
    for message, runs in reasons.items():
        say(f"error: {len(runs)} of {len(result.planned)} runs failed ({', '.join(runs[:3])}): {message}")


def _exit_code(result: StudyResult) -> int:
    """0 if every run is done, tuning apart, which finds what cannot run; 2 if all failures were wrong input; else 1."""
    import neftune.errors

    needed = {run.run_id for run in result.planned if run.stage != "tune"}
    failures = [failure for run_id, failure in result.failures.items() if run_id in needed]
    kinds = [getattr(neftune.errors, failure.error, None) for failure in failures]
    if kinds and all(kind is not None and issubclass(kind, neftune.errors.InputError) for kind in kinds):
        return 2
    return 1 if result.to_come or needed - set(result.records) else 0
