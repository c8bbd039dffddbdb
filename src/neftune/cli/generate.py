"""`neftune generate`: a model's answers to the prompts of a file."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.errors import ConfigError

if TYPE_CHECKING:
    from neftune.evaluation.answer_file import AnswerFile, PartAnswer
    from neftune.evaluation.answering import Checkpoint, Wish
    from neftune.evaluation.outputs import Outputs
    from neftune.evaluation.preference.endpoint import Endpoint
    from neftune.evaluation.variants import Variant

HELP = "Let a model answer the prompts of a file, in AlpacaEval's output format."

EPILOG = """\
FILE of prompts: JSON or JSONL of {"instruction", optional "input", "id"/"idx", ...}, also .gz.

  neftune generate --model CHECKPOINT --prompts alpaca_eval.json --output alpha5.json --repetition-penalty 1.2
        greedy answers of a fine-tuned model, with the paper's penalty
  neftune generate --model BASE --adapter LORA --prompts alpaca_eval.json --output lora.json
        a LoRA or other PEFT adapter on its base
  neftune generate --model CHECKPOINT --prompts alpaca_eval.json --output long.json --variant long
        a control: asked for a long response. `neftune list variants` shows all, held_back=100 among them
  neftune generate --model NAME --base-url http://127.0.0.1:8000/v1 --prompts alpaca_eval.json --output big.json
        the same by any OpenAI-compatible server: vLLM, `transformers serve`, ...

Each answer is in OUTPUT.part as soon as it is done: stopped at any moment, the same command goes on and generates none
of them again. Then: neftune judge baseline.json alpha5.json; neftune winrate verdicts. See docs/answers.md."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("--model", required=True, help="a checkpoint folder or hub id; with --base-url, its name there")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="what is asked")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the answers, .json or .jsonl")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="a PEFT adapter on the checkpoint")
    parser.add_argument(
        "--template",
        help="how prompts are written, as in training: alpaca, vicuna, chat, plain (default: the tokenizer's own chat "
        "template where it has one, else alpaca)",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights (default: float32)")
    parser.add_argument(
        "--variant", metavar="NAME", help="another way to ask, or answers cut; see neftune list variants"
    )
    parser.add_argument(
        "--baseline-outputs", type=Path, metavar="FILE", help="for --variant truncated: whose lengths are kept"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=1024, metavar="N", help="longest answer (default: %(default)s)"
    )
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="paper: 1.2; 1 is off (default: 1)"
    )
    parser.add_argument("--generator", metavar="NAME", help="what the answers' author is called (default: the model)")
    parser.add_argument("--limit", type=int, metavar="N", help="answer the first N prompts only")
    _add_work(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_work(parser: argparse.ArgumentParser) -> None:
    """What decides how fast, not what is answered."""
    parser.add_argument("--batch-size", type=int, metavar="N", help="most prompts answered together (default: 256)")
    parser.add_argument("--cache-gib", type=float, metavar="X", help="memory for keys and values (default: 4)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: 1)")
    parser.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible server, up to /v1, that has the model")
    parser.add_argument(
        "--key-variable",
        default="",
        metavar="NAME",
        help="environment variable with the server's key (default: OPENAI_API_KEY for OpenAI's, no key for others)",
    )
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at a time to a server (default: 8)")


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """Read, answer what is missing, write; returns the exit code."""
    from neftune.evaluation.answer_file import AnswerFile
    from neftune.evaluation.answering import Wish
    from neftune.evaluation.outputs import read_prompts
    from neftune.evaluation.variants import make_variant
    from neftune.records import content_hash

    _refuse_ignored(options)
    variant = make_variant(options.variant) if options.variant else None
    prompts = _limited(read_prompts(options.prompts), options.limit)
    baseline = _baseline_texts(options.baseline_outputs, variant, prompts)
    wish = Wish(options.max_new_tokens, options.repetition_penalty, variant)
    for prompt in prompts.rows:
        wish.example(prompt)
    asked = _server(options) if options.base_url else _checkpoint(options)
    settings = _asked_settings(asked, options.model) | wish.settings()
    settings["prompts"] = content_hash([dict(row.fields) for row in prompts.rows])
    settings["baseline_outputs"] = content_hash(list(baseline)) if baseline is not None else ""
    with AnswerFile(options.output, len(prompts.rows), settings) as file:
        kept = len(file.answers)
        if kept:
            print(f"{kept} answers were there before and are kept.", file=sys.stderr)  # noqa: T201
        with _progress(len(prompts.rows), kept) as shown:
            _ask(options, asked, prompts, wish, file, shown)
        return _finish(options, prompts, file, variant, baseline)


def _refuse_ignored(options: argparse.Namespace) -> None:
    """Refuse options that would not be obeyed."""
    local = ("adapter", "template", "dtype", "batch_size", "cache_gib", "threads")
    ignored = local if options.base_url else ("concurrency", "key_variable")
    for name in ignored:
        if getattr(options, name) not in (None, ""):
            raise ConfigError(
                f"--{name.replace('_', '-')} is for {'a checkpoint' if options.base_url else 'a server'}, "
                f"got it {'with' if options.base_url else 'without'} --base-url. Leave it out."
            )
    for name in ("limit", "threads"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise ConfigError(f"--{name} must be >= 1, got {number}.")
    if options.cache_gib is not None and not 0 < options.cache_gib < float("inf"):
        raise ConfigError(f"--cache-gib must be a finite number > 0, got {options.cache_gib:g}.")


def _limited(prompts: "Outputs", limit: int | None) -> "Outputs":
    from dataclasses import replace

    return prompts if limit is None else replace(prompts, rows=prompts.rows[:limit])


def _baseline_texts(path: Path | None, variant: "Variant | None", prompts: "Outputs") -> Sequence[str] | None:
    """The baseline's answers to the same prompts, where they are needed."""
    from neftune.evaluation.outputs import join, read_outputs

    needed = variant is not None and variant.cut is not None
    if needed != (path is not None):
        raise ConfigError(
            "--baseline-outputs goes with --variant truncated, got one without the other. "
            f"{'Name the file of the baseline' if needed else 'Leave it out'}."
        )
    return None if path is None else [other.text for _, other in join(prompts, read_outputs(path))]


def _checkpoint(options: argparse.Namespace) -> "Checkpoint":
    from neftune.evaluation.answering import Checkpoint

    return Checkpoint(options.model, options.adapter, options.dtype or "float32", options.template or "auto")


def _server(options: argparse.Namespace) -> "Endpoint":
    from neftune.evaluation.preference.endpoint import Endpoint

    return Endpoint(
        options.base_url, options.key_variable, concurrency=8 if options.concurrency is None else options.concurrency
    )


def _asked_settings(asked: "Checkpoint | Endpoint", model: str) -> dict[str, Any]:
    from neftune.evaluation.answering import Checkpoint

    return asked.settings() if isinstance(asked, Checkpoint) else {"base_url": asked.base_url, "model": model}


def _ask(
    options: argparse.Namespace,
    asked: "Checkpoint | Endpoint",
    prompts: "Outputs",
    wish: "Wish",
    file: "AnswerFile",
    shown: Any,
) -> None:
    from neftune.evaluation.answering import Checkpoint, ask_checkpoint, ask_server

    missing = {place: prompts.rows[place] for place in file.missing}

    def take(answer: "PartAnswer") -> None:
        file.add(answer)
        shown(answer)

    if not missing:
        return
    if not isinstance(asked, Checkpoint):
        from neftune.evaluation.preference.client import ChatClient

        ask_server(ChatClient(asked), options.model, missing, wish, take)
        return
    import torch

    torch.set_num_threads(options.threads or 1)
    ask_checkpoint(
        asked,
        missing,
        wish,
        batch_size=256 if options.batch_size is None else options.batch_size,
        cache_bytes=int((4 if options.cache_gib is None else options.cache_gib) * 2**30),
        on_answer=take,
    )


def _finish(
    options: argparse.Namespace,
    prompts: "Outputs",
    file: "AnswerFile",
    variant: "Variant | None",
    baseline: Sequence[str] | None,
) -> int:
    """Write the file and say what is in it."""
    from neftune.evaluation.answer_file import output_rows

    answers = [file.answers[place] for place in range(len(prompts.rows))]
    texts = [answer.text for answer in answers]
    if variant is not None:
        texts = variant.answers(texts, baseline)
    name = options.generator or _generator(options, variant)
    file.finish(output_rows(prompts, file.answers, name, texts))
    known = [answer.num_tokens for answer in answers if answer.num_tokens is not None]
    summary = {
        "output": str(options.output),
        "generator": name,
        "answers": len(answers),
        "empty": sum(not text.strip() for text in texts),
        "prompts_too_long": sum(answer.unanswered == "prompt_too_long" for answer in answers),
        "refused": sum(answer.unanswered == "refused" for answer in answers),
        "at_the_limit": sum(answer.ended is False and not answer.unanswered for answer in answers),
        "mean_characters": statistics.fmean(map(len, texts)),
        "mean_tokens": statistics.fmean(known) if known else None,
    }
    if options.json:
        print(json.dumps(summary))  # noqa: T201
    else:
        for key, value in summary.items():
            print(f"{key.replace('_', ' '):18} {f'{value:.1f}' if isinstance(value, float) else value}")  # noqa: T201
    return 0


def _generator(options: argparse.Namespace, variant: "Variant | None") -> str:
    """Model, adapter and variant, so that outputs of one model in several ways tell who wrote them.

    `neftune train` puts a checkpoint into RUN/model: there the run is the name.
    """
    parts = (Path(options.model), options.adapter)
    whole = [path if path.name and path.parent.name else path.resolve() for path in parts if path is not None]
    names = [path.parent.name if path.name == "model" else path.name for path in whole]
    return "+".join([*names, *([variant.name] if variant else [])])


@contextmanager
def _progress(total: int, kept: int) -> Iterator[Any]:
    """A bar with answers, tokens per second and the expected end."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rate = TextColumn("{task.fields[rate]}")
    with Progress(*columns, rate, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=kept, rate="")
        started, tokens = time.monotonic(), 0

        def shown(answer: "PartAnswer") -> None:
            nonlocal tokens
            tokens += answer.num_tokens or 0
            rate = tokens / max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=1, rate=f"{rate:,.0f} tokens/s")

        yield shown
