"""`neftune benchmark`: a model's benchmarks with every example's scores, and two results in pairs."""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.errors import ConfigError
from neftune.records import content_hash

if TYPE_CHECKING:
    from neftune.analysis.benchmarks import BenchmarkComparison
    from neftune.evaluation.benchmarks.results import Benchmark

HELP = "Run benchmarks (ARC, HellaSwag, MMLU, TruthfulQA, any of lm-eval's) and compare results example by example."

EPILOG = """\
lm-eval's own definitions, from the hub or from task files in a folder; every example's scores go into the result file.

  neftune benchmark --model MODEL --tasks leaderboard --data FOLDER
        ARC-Challenge 25-shot, HellaSwag 10-shot, MMLU 5-shot, TruthfulQA mc2: the paper's four
  neftune benchmark --model MODEL --adapter ADAPTERS --tasks mmlu --data FOLDER --compare BASE.json
        the same model with adapters, against the result of the base: McNemar's test, and how small the difference is
  neftune benchmark NEFT.json --compare BASE.json
        two results that are there already
  neftune benchmark --model MODEL --tasks arc_easy,my_task --task-folder DEFINITIONS --shots my_task=3
        any other task of lm-eval from the hub, and one of your own (lm-eval's YAML)

A run that was stopped goes on with the first task that is not finished: the same command again."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("result", type=Path, nargs="?", help="a result written before, in place of running --model")
    parser.add_argument("--model", metavar="PATH", help="a folder with a Hugging Face checkpoint, or a hub id")
    parser.add_argument("--adapter", type=Path, metavar="PATH", help="a folder with PEFT adapters for the model")
    parser.add_argument("--tasks", default="leaderboard", help="names, separated by commas (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="task files; without it the hub is read")
    parser.add_argument("--task-folder", type=Path, metavar="FOLDER", help="lm-eval definitions (YAML) of your own")
    parser.add_argument("--shots", metavar="TASK=N,...", default="", help="few-shot examples in place of the default")
    parser.add_argument("--limit", type=int, help="only the first N examples of each task (of each subject of MMLU)")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences per forward pass (default: %(default)s)")
    parser.add_argument(
        "--backend", default="neftune", help="what scores: neftune, or hf, lm-eval's own (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the weights")
    parser.add_argument("--device", default="cpu", help="where the model runs (default: %(default)s)")
    parser.add_argument("--compare", type=Path, metavar="RESULT", help="the baseline's result file")
    parser.add_argument(
        "--margin", type=float, help="margin of equivalence named beforehand, as a share (0.01 is a point)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, without the single examples")


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """Run or read, print, compare."""
    if (options.model is None) == (options.result is None):
        raise ConfigError("benchmark needs --model to run, or a result file to read, and not both. See --help.")
    if options.result is not None:
        _refuse_run_options(options)
    if options.margin is not None and options.compare is None:
        raise ConfigError("--margin is for a comparison, got no --compare. Name the baseline's result.")
    from neftune.evaluation.benchmarks.files import read_benchmarks

    # Read before hours of work, not after.
    baseline = None if options.compare is None else read_benchmarks(options.compare)
    given: Path | None = options.result
    path = _result_path(options) if given is None else None
    found = read_benchmarks(given) if given is not None else _performed(options, _result_path(options))
    compared = {} if baseline is None else _compared(baseline, found, options.margin)
    if options.json:
        from neftune.evaluation.benchmarks.results import plain

        shown = {name: _summary(one) for name, one in found.items()}
        pairs = {name: asdict(one) for name, one in compared.items()}
        everything = plain({"result": str(path or options.result), "benchmarks": shown, "compared": pairs})
        _print(json.dumps(_without_nan(everything), allow_nan=False))
        return 0
    _print(_table(found))
    for name, one in found.items():
        for note in one.notes:
            _print(f"note: {name}: {note}")
    if baseline is not None:
        _print(_comparison_table(compared))
    if path is not None:
        _print(f"result: {path}")
    return 0


def _refuse_run_options(options: argparse.Namespace) -> None:
    """A result is read as it is: options of a run would not be obeyed."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    of_a_run = [*_IDENTITY, "batch_size", "device"]
    given = [name for name in of_a_run if getattr(options, name) != parser.get_default(name)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(
            f"a result that is there is read as it is, got {names} beside {options.result}. Leave it out."
        )


def _result_path(options: argparse.Namespace) -> Path:
    settings = {name: str(value) for name, value in sorted(vars(options).items()) if name in _IDENTITY}
    name = Path(options.model).name + (f"+{options.adapter.name}" if options.adapter else "")
    return options.out / "benchmarks" / f"{name}-{content_hash(settings, length=8)}.json"


_IDENTITY = ("model", "adapter", "tasks", "data", "task_folder", "shots", "limit", "backend", "dtype")
"""Options that make another result."""


def _performed(options: argparse.Namespace, path: Path) -> "dict[str, Benchmark]":
    """Load the model, run, write the result."""
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from neftune.config import DataConfig, ModelConfig
    from neftune.evaluation.benchmarks.files import as_data
    from neftune.evaluation.benchmarks.run import RunOptions, run_benchmarks
    from neftune.evaluation.benchmarks.tasks import TaskOptions
    from neftune.study.identity import versions
    from neftune.study.store import write_json
    from neftune.training.models import load_model, with_adapters

    tasks = TaskOptions(options.data, options.task_folder, _shots(options.shots))
    how = RunOptions(options.limit, options.batch_size, options.backend, path.parent / "finished")
    names = [name.strip() for name in options.tasks.split(",")]
    loaded = load_model(ModelConfig(path=options.model, dtype=options.dtype), DataConfig(max_length=8), seed=0)
    if options.adapter is not None:
        loaded = with_adapters(loaded, options.adapter)
    try:
        model: Any = loaded.model
        model.to(torch.device(options.device))
    except RuntimeError as error:
        raise ConfigError(f"--device must be a device of this machine, got {options.device!r}: {error}.") from error
    bars = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bars, console=Console(stderr=True)) as progress:
        bar = progress.add_task("examples", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        found = run_benchmarks(model, loaded.tokenizer, names, tasks=tasks, options=how, on_progress=advance)
    settings = {name: str(getattr(options, name)) for name in _IDENTITY}
    write_json(path, as_data(found, {"settings": settings, "versions": versions()}))
    return found


def _shots(text: str) -> dict[str, int]:
    shots: dict[str, int] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, number = part.partition("=")
        if not number.isdigit():
            raise ConfigError(f"--shots must be TASK=N, as in arc_challenge=0, got {part!r}.")
        shots[name] = int(number)
    return shots


def _compared(
    baseline: "Mapping[str, Benchmark]", found: "Mapping[str, Benchmark]", margin: float | None
) -> "dict[str, BenchmarkComparison]":
    """Every benchmark that both results have."""
    from neftune.analysis.benchmarks import compare_benchmark

    shared = [name for name in found if name in baseline]
    if not shared:
        raise ConfigError(
            f"results must share a benchmark to be compared, got {', '.join(found)} and {', '.join(baseline)}."
        )
    compared: dict[str, BenchmarkComparison] = {}
    for name in shared:
        ours, theirs = found[name], baseline[name]
        if ours.num_shots != theirs.num_shots:
            raise ConfigError(
                f"{name} must have equal shots in both results, got {theirs.num_shots} and {ours.num_shots}. "
                "Run one again with --shots."
            )
        compared[name] = compare_benchmark(name, ours.metric, theirs.scores, ours.scores, margin=margin)
    return compared


def _summary(one: "Benchmark") -> dict[str, Any]:
    value, error = one.headline
    about = {"metric": one.metric, "value": value, "standard_error": error, "num_shots": one.num_shots}
    return {**about, "counts": one.counts, "notes": one.notes, "aggregates": one.aggregates}


def _table(found: "Mapping[str, Benchmark]") -> str:
    lines = [f"{'benchmark':<24}{'shots':>6}{'n':>8}  {'metric':<24}value ± SE, %"]
    for name, one in found.items():
        value, error = one.headline
        lines.append(
            f"{name:<24}{one.num_shots:>6}{one.counts['examples']:>8,}  {one.metric:<24}"
            f"{100 * value:.2f} ± {100 * error:.2f}"
        )
    return "\n".join(lines)


def _comparison_table(compared: "Mapping[str, BenchmarkComparison]") -> str:
    lines = [
        "\nagainst the baseline, the same examples, in points (one run of each: says nothing about other seeds)",
        f"{'benchmark':<24}{'n':>8}{'baseline':>10}{'this':>8}{'difference [95%]':>26}{'p':>9}{'within ±':>10}",
    ]
    for name, one in compared.items():
        difference = f"{100 * one.difference:+.2f} [{100 * one.low:+.2f}, {100 * one.high:+.2f}]"
        lines.append(
            f"{name:<24}{one.equivalence.num_examples:>8,}{100 * one.baseline:>10.2f}{100 * one.arm:>8.2f}"
            f"{difference:>26}{one.p_value:>9.3g}{_bound(one.equivalence.bound):>10}"
        )
    lines += [
        f"{name}: {one.num_unpaired:,} examples are in one result only"
        for name, one in compared.items()
        if one.num_unpaired
    ]
    lines += [
        f"{name}: every difference is the same, so that nothing is known of how small it is"
        for name, one in compared.items()
        if math.isnan(one.equivalence.bound)
    ]
    lines += [
        f"{name}: {'equivalent' if one.equivalence.is_shown else 'not shown to be equivalent'} within "
        f"± {100 * one.equivalence.margin:g} points (p = {one.equivalence.p_value:.3g})"
        for name, one in compared.items()
        if one.equivalence.margin is not None and one.equivalence.p_value is not None
    ]
    lines.append(
        "p: McNemar's test where answers are right or wrong, else the paired t. within ±: with 95% confidence."
    )
    return "\n".join(lines)


def _bound(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _print(text: str) -> None:
    print(text)  # noqa: T201
