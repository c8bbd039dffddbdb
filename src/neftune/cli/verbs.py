"""The verbs: each takes its options and the recipe's dotted settings, and returns an exit code."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from neftune.cli.knobs import (
    first_run,
    named_knobs,
    only_sections,
    read_with_knobs,
    recipe_of_run,
    refuse_several_arms,
    with_knobs,
)
from neftune.cli.study import write_study_report
from neftune.cli.terminal import say, show
from neftune.config import Recipe, RunConfig
from neftune.errors import ConfigError
from neftune.recipe import read_recipe, validate
from neftune.study.store import Store, read_record, write_json


def train(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune train RECIPE`: one run, its weights kept."""
    from neftune.study.check import check_run
    from neftune.study.launch import perform_run
    from neftune.training.checkpoints import remove_checkpoints

    recipe = read_with_knobs(options, knobs)
    refuse_several_arms(recipe)
    config = first_run(recipe)
    check_run(config)
    config = config.model_copy(update={"train": config.train.model_copy(update={"save_model": True})})
    folder: Path = options.folder or options.out / "trained" / recipe.name
    _usable(folder)
    _threads(options.threads)
    with _steps() as report:
        record = perform_run(folder.name, config, folder, evaluate=False, report=report)
    write_json(folder / "result.json", asdict(record))
    remove_checkpoints(folder)
    last = record.history[-1].values if record.history else {}
    losses = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}" for name, value in last.items() if name.startswith("clean")
    )
    say(f"trained with alpha = {record.alpha:g}; {losses}")
    if record.noise:
        noise = record.noise
        say(
            f"noise realised: alpha {noise.alpha_mean:.3f} ({noise.alpha_min:.3f} to {noise.alpha_max:.3f}) over "
            f"{noise.num_documents} documents; noise-to-embedding ratio {noise.noise_to_embedding:.3f}"
        )
    show(f"{folder}\nnext: neftune evaluate --run {folder}")
    return 0


def evaluate(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune evaluate RECIPE` or `neftune evaluate --run FOLDER`."""
    from neftune.study.check import check_run
    from neftune.study.run import evaluate_checkpoint

    if options.run and options.recipe:
        raise ConfigError(f"evaluate takes a recipe or --run, got both ({options.recipe} and {options.run}).")
    if options.run:
        trained = read_record(_file(options.run / "result.json", "a run folder made by `neftune train`"))
        recipe = validate(Recipe, recipe_of_run(trained.config, options.run.name), source=str(options.run))
        only_sections(knobs, ("evaluate", "data"), "evaluate --run")
        _not_of_a_study(options.run)
        config = first_run(with_knobs(recipe, options, knobs))
        model = config.model.model_copy(update={"path": str(options.run / "model"), "adapter": "none"})
        folder = options.run
    else:
        trained = None
        recipe = read_with_knobs(options, knobs)
        config = first_run(recipe)
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
    show(_score_table(record))
    show(f"{folder / 'result.json'}")
    return 0


def _not_of_a_study(folder: Path) -> None:
    """Refuse a run of a study, whose result has to stay what its id says."""
    parent = folder.resolve().parent
    if parent.name == "runs" and (parent.parent / "studies").is_dir():
        raise ConfigError(
            f"evaluate --run writes its result into a folder made by `neftune train`, got {folder}, a run of a study, "
            f"whose result must stay as it is. Name its weights in a recipe: --model.path {folder / 'model'}."
        )


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
    show(json.dumps(asdict(comparison), indent=1) if options.json else comparison.table())
    return 0


def audit(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune audit [RECIPE]`: what noise a training pipeline really applies."""
    import tyro

    from neftune.cli.audit import Audited, perform
    from neftune.cli.main import verb_help

    if options.help:
        show(verb_help("audit"))
        tyro.cli(Audited, prog="neftune audit", args=["--help"])
    only_sections(knobs, ("model", "data"), "audit")
    if not options.recipe and "model.path" not in named_knobs(knobs):
        raise ConfigError(
            "audit needs a model and data, got none. Give --model.path MODEL --data.source FILE, or a recipe "
            "(MODEL may be microworld, the embedded one). `neftune audit --help` has examples."
        )
    recipe = read_recipe(options.recipe) if options.recipe else Recipe(name="audit")
    recipe = with_knobs(recipe, options, knobs)
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


def listed(options: argparse.Namespace, knobs: list[str]) -> int:
    """`neftune list [WHAT]`."""
    from neftune.cli.listing import listing

    rows = listing(options.what, options.out)
    if options.json:
        show(json.dumps(rows, indent=1))
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
