"""`neftune mt-bench`: answers to MT-Bench's 80 two-turn questions, graded by a judge."""

import argparse
import json
import math
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.cli.judge_endpoint import add_endpoint_options, endpoint_of

if TYPE_CHECKING:
    from neftune.evaluation.mt_bench.answers import Answers
    from neftune.evaluation.mt_bench.grading import Graded
    from neftune.evaluation.mt_bench.questions import Bench
    from neftune.evaluation.mt_bench.scores import Mean, MeanScores
    from neftune.evaluation.preference.endpoint import ChatSettings, Endpoint

HELP = "MT-Bench: answer 80 two-turn questions, let a judge grade each answer from 1 to 10."

EPILOG = """\
DATA is FastChat's folder fastchat/llm_judge/data (question.jsonl, judge_prompts.jsonl, reference_answer/gpt-4.jsonl).
Answers are generated greedily in every category; FastChat samples four of the eight. The judge is any OpenAI-compatible
server; its key is read from the environment, and every verdict is kept before it counts.

  neftune mt-bench DATA --checkpoint MODEL --judge-model gpt-4
        answer both turns, then grade; the same command goes on with grading, asking for nothing twice
  neftune mt-bench DATA --checkpoint MODEL
        answer only; the answers are written in FastChat's format
  neftune mt-bench DATA --answers model_answer/vicuna-7b.jsonl --judge-model qwen --base-url http://127.0.0.1:8000/v1
        grade answers that are there, by a server of your own
  neftune mt-bench DATA --judgments model_judgment/gpt-4_single.jsonl
        read the scores of verdicts that are there; asks nobody

docs/mt-bench.md says what the numbers are comparable with."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("data", type=Path, metavar="DATA", help="FastChat's data folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="MODEL", help="a folder or hub id of the model that answers")
    source.add_argument("--answers", type=Path, metavar="FILE", help="answers in FastChat's model_answer format")
    source.add_argument("--judgments", type=Path, metavar="FILE", help="verdicts in FastChat's model_judgment format")
    parser.add_argument("--name", default="", help="the model's name; of several in --answers, the one that is graded")
    for name, what in (("questions", "question.jsonl"), ("judge-prompts", "judge_prompts.jsonl"),
                       ("references", "reference_answer/gpt-4.jsonl")):  # fmt: skip
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"instead of DATA's {what}")
    parser.add_argument("--template", default="auto", help="prompt template of the model (default: its chat template)")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="longest answer (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="answers at a time (default: %(default)s)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="1.0 is off, the paper's is 1.2")
    parser.add_argument("--judge-model", default="", help="the judge, as its server calls it; without one, answer only")
    add_endpoint_options(parser)
    parser.add_argument("--temperature", default="0", help='of the judge; "none" leaves it to the server (default: 0)')
    parser.add_argument("--max-tokens", type=int, default=2048, help="longest verdict (default: %(default)s)")
    parser.add_argument("--store", type=Path, metavar="FILE", help="verdicts (default: OUT/judged/verdicts.sqlite)")
    parser.add_argument("--dry-run", action="store_true", help="show the calls and the first prompt, ask nobody")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """Answer, grade, print; returns the exit code."""
    from neftune.evaluation.mt_bench.answers import read_answers

    bench = _bench(options)
    if options.judgments:
        return _show_judgments(options, bench)
    # Whatever is wrong with the judge is said before an hour of generation.
    endpoint, settings = _judge(options)
    if options.answers:
        answers = read_answers(options.answers, bench.questions, model=options.name)
    else:
        answers = _generated(options, bench)
    if settings is None:
        return 0
    return _grade(options, bench, answers, endpoint, settings)


def _bench(options: argparse.Namespace) -> "Bench":
    from neftune.evaluation.mt_bench.questions import find_files, read_bench

    own = (options.questions, options.judge_prompts, options.references)
    return read_bench(*(own if all(own) else (a or b for a, b in zip(own, find_files(options.data), strict=True))))


def _judge(options: argparse.Namespace) -> "tuple[Endpoint, ChatSettings | None]":
    """The server, checked with its key, and the judge; no judge where none is asked for."""
    from neftune.errors import ConfigError
    from neftune.evaluation.preference.endpoint import ChatSettings

    endpoint = endpoint_of(options)
    if not options.judge_model:
        if options.answers:
            raise ConfigError("answers are graded by a judge, got none. Give --judge-model.")
        return endpoint, None
    if not options.dry_run:
        endpoint.key()
    try:
        temperature = None if options.temperature == "none" else float(options.temperature)
    except ValueError as error:
        raise ConfigError(f'--temperature takes a number or "none", got {options.temperature!r}.') from error
    if options.max_tokens < 1:
        raise ConfigError(f"--max-tokens must be >= 1, got {options.max_tokens}.")
    return endpoint, ChatSettings(options.judge_model, temperature, options.max_tokens)


def _generated(options: argparse.Namespace, bench: "Bench") -> "Answers":
    """The checkpoint's answers, made once: a file of the same questions, weights and settings is read."""
    from neftune.config import DataConfig, ModelConfig
    from neftune.evaluation.generation import GenerationSettings
    from neftune.evaluation.mt_bench.answers import generate_answers, read_answers, write_answers
    from neftune.records import content_hash
    from neftune.training.models import load_model

    name = options.name or Path(options.checkpoint).name
    settings = GenerationSettings(
        options.max_new_tokens, repetition_penalty=options.repetition_penalty, batch_size=options.batch_size
    )
    asked = [[one.id, *one.turns] for one in bench.questions]
    how = [options.template, options.max_new_tokens, options.repetition_penalty]
    kind = content_hash([_weights(options.checkpoint), asked, *how], length=8)
    path = options.out / "mt-bench" / f"{_safe(name)}-{kind}.jsonl"
    if path.is_file():
        _say(f"answers made before: {path}")
        return read_answers(path, bench.questions, model=name)
    loaded = load_model(ModelConfig(path=options.checkpoint), DataConfig(max_length=8), seed=0)
    with _bar("answering", 2 * len(bench.questions)) as advance:
        answers = generate_answers(
            loaded.model,
            loaded.tokenizer,
            bench.questions,
            name=name,
            settings=settings,
            template=options.template,
            on_progress=advance,
        )
    if answers.num_without_room:
        _say(f"! {answers.num_without_room} prompts fill the model's context; their answers are empty")
    write_answers(path, answers)
    _say(f"answers, greedy in every category: {path}")
    return answers


def _weights(checkpoint: str) -> list[list[str | int]]:
    """What tells a checkpoint from another under its name: a folder's files with their sizes and times."""
    files = sorted(path for path in Path(checkpoint).glob("*") if path.is_file())
    return [[checkpoint], *([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files)]


def _grade(
    options: argparse.Namespace, bench: "Bench", answers: "Answers", endpoint: "Endpoint", settings: "ChatSettings"
) -> int:
    from neftune.evaluation.mt_bench.grading import grade, grade_requests
    from neftune.evaluation.mt_bench.judgments import write_judgments
    from neftune.evaluation.mt_bench.scores import mean_scores
    from neftune.evaluation.preference.client import ChatClient
    from neftune.evaluation.preference.verdicts import VerdictStore
    from neftune.records import content_hash

    server = endpoint.base_url
    requests = grade_requests(bench, answers, settings, server=server)
    with VerdictStore(options.store or options.out / "judged" / "verdicts.sqlite") as store:
        left = len({one.request.id for one in requests} - store.get_many(one.request.id for one in requests).keys())
        _say(f"{left} calls to {settings.model}, {len(requests) - left} graded before")
        if options.dry_run:
            print("\n".join(f"--- {turn.role}\n{turn.content}" for turn in requests[0].request.turns))  # noqa: T201
            return 0
        with _bar("grading", len(requests)) as advance:
            done = 0

            def progress(there: int) -> None:
                nonlocal done
                advance(there - done)
                done = there

            client = ChatClient(endpoint, on_retry=lambda said, wait: _say(f"waiting {wait:.0f} s: {said}"))
            graded = grade(requests, client, store, server=server, on_progress=progress)
    kind = content_hash([one.request.id for one in requests], length=8)
    path = options.out / "mt-bench" / f"{_safe(answers.model)}-{_safe(settings.model)}-{kind}-judgments.jsonl"
    write_judgments(path, graded.grades, model=answers.model, judge=settings.model)
    _show({answers.model: mean_scores(graded.grades)}, as_json=options.json)
    _say(f"verdicts: {path}")
    return _finish(graded)


def _finish(graded: "Graded") -> int:
    missing = [one for one in graded.grades if one.judgment is None]
    if graded.stopped_by:
        _say(f"error: stopped: {graded.stopped_by}")
    elif missing:
        said = "; ".join(sorted({one.said for one in missing})[:3])
        _say(f"error: {len(missing)} answers were not graded ({said}). The same command asks for them again.")
    return 1 if missing or all(one.score is None for one in graded.grades) else 0


def _show_judgments(options: argparse.Namespace, bench: "Bench") -> int:
    from neftune.evaluation.mt_bench.judgments import read_judgments
    from neftune.evaluation.mt_bench.scores import mean_scores

    found = read_judgments(options.judgments, {one.id: one.category for one in bench.questions})
    _show({model: mean_scores(grades) for model, grades in found.items()}, as_json=options.json)
    return 0


def _show(models: "dict[str, MeanScores]", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_plain({model: asdict(one) for model, one in models.items()}), indent=1))  # noqa: T201
        return
    blocks = [f"{model}\n{_table(one)}" for model, one in models.items()]
    notes = "n: scores behind both turns' mean. unparsed verdicts and missing ones are left out of every mean."
    print("\n\n".join([*blocks, notes]))  # noqa: T201


def _table(scores: "MeanScores") -> str:
    lines = [f"{'':12}{'both':>7}{'turn 1':>8}{'turn 2':>8}{'n':>5}{'unparsed':>10}{'missing':>9}"]
    lines += [_row(name, *three) for name, three in scores.categories.items()]
    lines.append(_row("all", scores.overall, *scores.turns))
    if scores.overall.num_out_of_range:
        lines.append(f"! {scores.overall.num_out_of_range} scores lie outside 1 to 10 and are taken as they are")
    return "\n".join(lines)


def _row(name: str, both: "Mean", first: "Mean", second: "Mean") -> str:
    cells = [f"{'-' if math.isnan(one.score) else format(one.score, '.2f'):>{width}}"
             for one, width in ((both, 7), (first, 8), (second, 8))]  # fmt: skip
    return f"{name:12}{''.join(cells)}{both.num_scored:5}{both.num_unparsed:10}{both.num_missing:9}"


def _bar(what: str, total: int) -> Any:
    """A progress bar on stderr: a context manager that gives a function to advance it."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Any:
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda steps: bar.advance(task, steps)

    return shown()


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "model"


def _plain(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201
