"""The verbs: each takes its options and the recipe's dotted settings, and returns an exit code."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from neftune.config import LATER, Recipe, RunConfig
from neftune.errors import ConfigError
from neftune.recipe import read_recipe, validate
from neftune.records import StudyResult
from neftune.study.store import Store, read_record, write_json


def study(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune study RECIPE`."""
    from neftune.analysis.verdict import check_rule
    from neftune.cli.progress import Progress
    from neftune.study.study import run_study

    recipe = _recipe(options, knobs)
    _not_axes(recipe, knobs)
    judge = recipe.evaluate.judge
    check_rule(recipe.study.decision, has_judge=judge is not None, judges_later=judge == LATER)
    workers = options.workers or max(1, (os.cpu_count() or 1) // options.threads)
    store = Store(options.out)
    arms = len(recipe.study.seeds)
    _say(f"study {recipe.name}: {recipe.question or 'does the noise help?'}  ({workers} at a time, {arms} seeds)")
    with Progress(store, workers) as progress:
        result = run_study(recipe, root=options.out, workers=workers, threads=options.threads, watch=progress)
    write_study_report(store, recipe.name, result)
    _say_failures(result)
    return _exit_code(result)


def train(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune train RECIPE`: one run, its weights kept."""
    from neftune.study.check import check_run
    from neftune.study.run import train_run, training_record
    from neftune.training.checkpoints import remove_checkpoints

    recipe = _recipe(options, knobs)
    _one_arm(recipe)
    config = _run_config(recipe)
    check_run(config)
    config = config.model_copy(update={"train": config.train.model_copy(update={"save_model": True})})
    folder: Path = options.folder or options.out / "trained" / recipe.name
    _usable(folder)
    _threads(options.threads)
    with _steps() as report:
        trained = train_run(config, folder, report=report)
    record = training_record(folder.name, config, trained)
    write_json(folder / "result.json", asdict(record))
    remove_checkpoints(folder)
    last = record.history[-1].values if record.history else {}
    losses = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}" for name, value in last.items() if name.startswith("clean")
    )
    _say(f"trained with alpha = {record.alpha:g}; {losses}")
    if record.noise:
        noise = record.noise
        _say(
            f"noise realised: alpha {noise.alpha_mean:.3f} ({noise.alpha_min:.3f} to {noise.alpha_max:.3f}) over "
            f"{noise.num_documents} documents; noise-to-embedding ratio {noise.noise_to_embedding:.3f}"
        )
    _print(f"{folder}\nnext: neftune evaluate --run {folder}")
    return 0


def evaluate(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune evaluate RECIPE` or `neftune evaluate --run FOLDER`."""
    from neftune.study.check import check_run
    from neftune.study.run import evaluate_checkpoint

    if options.run and options.recipe:
        raise ConfigError(f"evaluate takes a recipe or --run, got both ({options.recipe} and {options.run}).")
    if options.run:
        trained = read_record(_file(options.run / "result.json", "a run folder made by `neftune train`"))
        recipe = validate(Recipe, _recipe_values(trained.config, options.run.name), source=str(options.run))
        _only(knobs, ("evaluate", "data"), "evaluate --run")
        config = _run_config(_with_knobs(recipe, options, knobs))
        model = config.model.model_copy(update={"path": str(options.run / "model"), "adapter": "none"})
        folder = options.run
    else:
        trained = None
        recipe = _recipe(options, knobs)
        config = _run_config(recipe)
        model = config.model
        folder = options.out / "evaluated" / recipe.name
    config = _every_variant(config)
    check_run(config)
    _usable(folder)
    _threads(options.threads)
    with _steps() as report:
        record = evaluate_checkpoint(config.model_copy(update={"model": model}), report=report)
    if trained:
        asked = {"evaluate": record.config["evaluate"], "data": record.config["data"]}
        record = replace(
            record,
            run_id=trained.run_id,
            config={**trained.config, **asked},
            history=trained.history,
            noise=trained.noise,
            alpha=trained.alpha,
            counts={**trained.counts, **record.counts},
            seconds={**trained.seconds, **record.seconds},
        )
    write_json(folder / "result.json", asdict(record))
    _print(_score_table(record))
    _print(f"{folder / 'result.json'}")
    return 0


def _every_variant(config: RunConfig) -> RunConfig:
    """The settings of one model that is evaluated on its own: asked under every variant, whatever arm it is."""
    from neftune.evaluation.variants import make_variant

    cutting = [one.name for one in map(make_variant, config.evaluate.variants) if not one.needs_generation]
    if cutting:
        raise ConfigError(
            f"evaluate.variants {', '.join(cutting)} cut answers to those of a baseline, got one model alone. "
            "Leave them out, or run a study."
        )
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"variants_of": "all"})})


def compare(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune compare A B`."""
    from neftune.analysis.compare import compare_outputs, compare_runs
    from neftune.evaluation.outputs import read_outputs

    paths = (options.baseline, options.other)
    folders = [path.is_dir() for path in paths]
    if all(folders):
        first, second = (read_record(_file(path / "result.json", "an evaluated run")) for path in paths)
        comparison = compare_runs(first, second)
    elif not any(folders):
        comparison = compare_outputs(*([row.fields for row in read_outputs(path).rows] for path in paths))
    else:
        raise ConfigError(f"compare takes two run folders or two output files, got {paths[0]} and {paths[1]}.")
    _print(json.dumps(asdict(comparison), indent=1) if options.json else comparison.table())
    return 0


def audit(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune audit [RECIPE]`: what noise a training pipeline really applies."""
    import tyro

    from neftune.cli.audit import Audited, perform
    from neftune.cli.main import verb_help

    if options.help:
        _print(verb_help("audit"))
        tyro.cli(Audited, prog="neftune audit", args=["--help"])
    _only(knobs, ("model", "data"), "audit")
    if not options.recipe and "model.path" not in _named(knobs):
        raise ConfigError(
            "audit needs a model and data, got none. Give --model.path MODEL --data.source FILE, or a recipe "
            "(MODEL may be microworld, the embedded one). `neftune audit --help` has examples."
        )
    recipe = read_recipe(options.recipe) if options.recipe else Recipe(name="audit")
    recipe = _with_knobs(recipe, options, knobs)
    perform(Audited(model=recipe.model, data=recipe.data), options)
    return 0


def report(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune report STUDY`: also of a study that is still running."""
    path = Path(options.study)
    root, name = (path.parent.parent, path.name) if (path / "plan.json").is_file() else (options.out, options.study)
    if not root.is_dir():
        raise ConfigError(f"report needs the folder of all runs, got {root}, which does not exist. Name it with --out.")
    store = Store(root)
    write_study_report(store, name, store.read_study(name))
    return 0


def show(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune list [WHAT]`."""
    from neftune.cli.listing import listing

    rows = listing(options.what, options.out)
    if options.json:
        _print(json.dumps(rows, indent=1))
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for column in rows[0] if rows else []:
            table.add_column(column)
        for row in rows:
            table.add_row(*(Text(str(value)) for value in row.values()))
        Console(soft_wrap=not sys.stdout.isatty()).print(table if rows else f"no {options.what} in {options.out}")
    return 0


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
    _print(terminal_summary(result))
    _print(f"report: {path}")


def _say_failures(result: StudyResult) -> None:
    """One line for every reason that runs failed for."""
    reasons: dict[str, list[str]] = {}
    for failure in result.failures.values():
        reasons.setdefault(failure.message, []).append(failure.run_id)
    for message, runs in reasons.items():
        _say(f"error: {len(runs)} of {len(result.planned)} runs failed ({', '.join(runs[:3])}): {message}")


def _exit_code(result: StudyResult) -> int:
    """0 if every run is done; 2 if each failure was wrong input; else 1."""
    import neftune.errors

    kinds = [getattr(neftune.errors, failure.error, None) for failure in result.failures.values()]
    if kinds and all(kind is not None and issubclass(kind, neftune.errors.InputError) for kind in kinds):
        return 2
    return 1 if len(result.records) < len({run.run_id for run in result.planned}) else 0


def _recipe(options: argparse.Namespace, knobs: list[str]) -> Recipe:
    """The recipe with the command line's settings."""
    path: Path | None = options.recipe
    recipe = read_recipe(path) if path else Recipe(name="recipe")
    if options.help or not path:
        _help(options, recipe)
    return _with_knobs(recipe, options, knobs)


def _with_knobs(recipe: Recipe, options: argparse.Namespace, knobs: list[str]) -> Recipe:
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

    print(verb_help(options.verb))  # noqa: T201
    if not options.help:
        raise ConfigError(f"{options.verb} needs a recipe, e.g. neftune {options.verb} recipes/quickstart.yaml.")
    tyro.cli(Recipe, prog=f"neftune {options.verb} RECIPE", default=recipe, args=["--help"])


def _named(knobs: list[str]) -> list[str]:
    """The dotted settings that the command line names."""
    return [knob[2:].split("=")[0].replace("-", "_") for knob in knobs if knob.startswith("--")]


def _not_axes(recipe: Recipe, knobs: list[str]) -> None:
    """Refuse a setting that an axis of the study would override."""
    for kind, axes in (("scientific", recipe.study.scientific), ("blocks", recipe.study.blocks)):
        for knob in set(_named(knobs)) & set(axes):
            raise ConfigError(
                f"--{knob} is an axis of this study ({axes[knob]}), which would override it. "
                f"Set the axis: --study.{kind}.{knob} VALUES."
            )


def _one_arm(recipe: Recipe) -> None:
    """Refuse to guess which arm of a study is to be trained."""
    unset = recipe.noise.alpha is None and recipe.noise.nsr is None
    if unset and any(knob.startswith("noise.") for knob in recipe.study.scientific):
        raise ConfigError(
            "train takes one arm of this study, got none. Say how much noise: --noise.alpha 5 (0 for the baseline)."
        )


def _only(knobs: list[str], sections: tuple[str, ...], verb: str) -> None:
    """Refuse settings that would not be obeyed."""
    for knob in _named(knobs):
        if knob.split(".")[0] not in sections:
            raise ConfigError(f"{verb} takes settings of {' and '.join(sections)} only, got --{knob}.")


def _run_config(recipe: Recipe) -> RunConfig:
    """The one run of a recipe that has no axes: its first seed."""
    values = recipe.model_dump(mode="json", exclude={"name", "question", "study"})
    return validate(RunConfig, {**values, "seed": recipe.study.seeds[0]}, source=recipe.name)


def _recipe_values(config: Any, name: str) -> dict[str, Any]:
    values = {key: value for key, value in config.items() if key not in ("seed", "stop_at_train_loss_of")}
    return {"name": name, **values, "study": {"seeds": [config["seed"]]}}


def _file(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path.parent} must be {what}; it has no {path.name}.")
    return path


def _usable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the output folder must be writable, got {folder}: {error.strerror}.") from error


def _threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)


@contextmanager
def _steps() -> Iterator[Any]:
    """A progress bar fed by a run's reports."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(values: Any) -> None:
            loss = f"  loss {values['loss']:.3f}" if isinstance(values.get("loss"), float) else ""
            bar.update(
                task,
                description=f"{values['stage']}{loss}",
                completed=values.get("step", 0),
                total=values.get("num_steps"),
            )

        yield report


def _score_table(record: Any) -> str:
    import math

    parts = {part: scores.values for part, scores in record.scores.items()}
    names = sorted({name for values in parts.values() for name in values})
    lines = [f"{'mean per example':28}" + "".join(f"{part:>14}" for part in parts)]
    for name in names:
        cells = ""
        for values in parts.values():
            known = [one for one in values.get(name, ()) if not math.isnan(one)]
            cells += f"{sum(known) / len(known):14.4f}" if known else f"{'-':>14}"
        lines.append(f"{name:28}{cells}")
    counts = "".join(f"{len(scores.example_ids):14}" for scores in record.scores.values())
    return "\n".join([*lines, f"{'examples':28}{counts}"])


def _say(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201


def _print(message: str) -> None:
    print(message)  # noqa: T201
