"""`neftune judge A B`: which of two sets of answers a judge prefers."""

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.cli.judge_endpoint import add_endpoint_options, endpoint_of

if TYPE_CHECKING:
    from neftune.evaluation.outputs import Outputs
    from neftune.evaluation.preference.cost import Budget, Usage
    from neftune.evaluation.preference.endpoint import ChatSettings
    from neftune.evaluation.preference.judging import Judged, Judging
    from neftune.evaluation.preference.pairing import Pair

HELP = "Let a model judge which of two sets of answers is better, prompt by prompt."

EPILOG = """\
A is the baseline and B the model: files of outputs in AlpacaEval's format (JSON or JSONL of {"instruction", "output"},
also .gz) or run folders. The judge is any OpenAI-compatible server: OpenAI, vLLM, llama.cpp, `transformers serve`.

  neftune judge baseline.json noisy.json --model gpt-4-1106-preview --judge logprobs --dry-run
        how many calls, how many tokens, and the first prompt; asks nobody
  neftune judge baseline.json noisy.json --model gpt-4-1106-preview --judge logprobs \\
        --price-prompt 10 --price-completion 30 --max-cost 15
        the key is read from OPENAI_API_KEY; stops before 15 is spent
  neftune judge RUN_A RUN_B --model qwen --base-url http://127.0.0.1:8000/v1 --judge ranking
        two runs of a study head to head, by a server of your own
  neftune judge --study my-study --model gpt-4-1106-preview --judge logprobs --dry-run
        every arm of a study against the baseline of its seed; the study's report and verdict then rest on it
  neftune judge ... --key-variable MY_KEY --base-url https://example.org/v1
        another provider; the key from the environment variable MY_KEY

Every reply is in OUT/judged/verdicts.sqlite before it counts: stopped at any moment, the same command goes on and asks
for none of them again. The annotations are in AlpacaEval's format; `neftune winrate` reads them too. See
docs/judging.md."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument(
        "baseline", type=Path, metavar="A", nargs="?", help="outputs of the baseline: a file or a run folder"
    )
    parser.add_argument("compared", type=Path, metavar="B", nargs="?", help="outputs of the model, the same")
    parser.add_argument(
        "--study", metavar="NAME", help="instead of A and B: every run of a study against its baseline, seed by seed"
    )
    parser.add_argument("--model", required=True, help="the judge's model, as its server calls it")
    add_endpoint_options(parser)
    parser.add_argument(
        "--judge",
        default="ranking",
        help="ranking or logprobs, see `neftune list pairwise-judges` (default: %(default)s)",
    )
    parser.add_argument("--template", type=Path, metavar="FILE", help="what the judge is shown, instead of our own")
    parser.add_argument("--seed", type=int, default=0, help="of the sides; 0 lays them as AlpacaEval (default: 0)")
    parser.add_argument("--part", default="test", help="of run folders: train, heldout or test (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="judge the first N prompts only")
    parser.add_argument("--names", nargs=2, metavar=("A", "B"), help="what to call the two sides")
    _add_sampling(parser)
    _add_work(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the plan and the first prompt, ask nobody")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", default="0", help='of the judge; "none" leaves it to the server (default: 0)')
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest reply (default: 100; 1 for logprobs)")
    parser.add_argument("--top-logprobs", type=int, metavar="N", help="first tokens read (default: 5 for logprobs)")
    parser.add_argument("--extra", default="{}", metavar="JSON", help="further fields of the request's body")
    parser.add_argument(
        "--max-prompt-chars", type=int, metavar="N", help="do not send longer prompts; they count as null"
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--price-prompt", type=float, metavar="P", help="of a million prompt tokens")
    parser.add_argument("--price-completion", type=float, metavar="P", help="of a million reply tokens")
    parser.add_argument("--max-cost", type=float, metavar="C", help="stop before more than this is spent; needs prices")
    parser.add_argument("--server", default="", metavar="NAME", help="name in the store's keys (default: the base URL)")
    parser.add_argument("--store", type=Path, metavar="FILE", help="replies (default: OUT/judged/verdicts.sqlite)")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="verdicts (default: in OUT/judged)")


def run(options: argparse.Namespace, knobs: list[str]) -> int:
    """Plan, ask, write, print; returns the exit code."""
    from neftune.errors import ConfigError
    from neftune.evaluation.preference.pairing import pair_outputs

    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit must be >= 1, got {options.limit}.")
    if options.study:
        from neftune.cli.judge_study import judge_study

        return judge_study(options)
    if options.baseline is None or options.compared is None:
        raise ConfigError("judge needs two sets of outputs, A and B, or --study NAME. `neftune judge --help` explains.")
    sides = [_outputs(path, options.part) for path in (options.baseline, options.compared)]
    pairs = pair_outputs(*sides, seed=options.seed)[: options.limit]
    asked = ask(options, pairs, sides)
    return 0 if asked is None else _finish(options, *asked, sides)


def ask(
    options: argparse.Namespace, pairs: "tuple[Pair, ...]", sides: "list[Outputs]"
) -> "tuple[Judging, Judged, Budget] | None":
    """Show the plan and ask the judge about every pair; None for a dry run."""
    from neftune.errors import ConfigError
    from neftune.evaluation.preference.client import ChatClient
    from neftune.evaluation.preference.cost import Budget
    from neftune.evaluation.preference.judging import judge_pairs, left_to_ask
    from neftune.evaluation.preference.verdicts import VerdictStore

    endpoint = endpoint_of(options)
    budget = Budget(options.price_prompt, options.price_completion, options.max_cost)
    judging = _judging(options, pairs, options.server or endpoint.base_url)
    with VerdictStore(options.store or options.out / "judged" / "verdicts.sqlite") as store:
        spent, left = left_to_ask(judging, store)
        _show_plan(judging, sides, budget, spent, left)
        if options.dry_run:
            _show_first_prompt(judging)
            return None
        if not budget.allows(spent + left):
            raise ConfigError(
                f"judging must cost no more than --max-cost {options.max_cost:g}, got an estimate of up to "
                f"{budget.cost(spent + left):.4g} in all. Raise the cap, or judge fewer prompts with --limit."
            )
        with _Progress(len(judging.requests), budget) as progress:
            client = ChatClient(endpoint, on_retry=progress.retry)
            judged = judge_pairs(judging, client, store, budget=budget, on_progress=progress.advance)
    return judging, judged, budget


def _outputs(path: Path, part: str) -> "Outputs":
    """Outputs of a file, or of a run folder's part."""
    from neftune.errors import DataError
    from neftune.evaluation.outputs import outputs_of_answers, read_outputs
    from neftune.study.store import read_record

    if not path.is_dir():
        return read_outputs(path)
    if not (path / "result.json").is_file():
        raise DataError(f"a folder must be an evaluated run with its result.json, got {path}. Name a run, or a file.")
    answers = read_record(path / "result.json").answers
    if not answers.get(part):
        raise DataError(
            f"{path} must have answers of the part {part!r}, got {', '.join(answers) or 'none'}. See --part."
        )
    return outputs_of_answers(answers[part], str(path))


def _judging(options: argparse.Namespace, pairs: "tuple[Pair, ...]", server: str) -> "Judging":
    from neftune.evaluation.preference.judging import make_judging, pairwise_judges
    from neftune.evaluation.preference.templates import read_template

    judge = pairwise_judges[options.judge]
    return make_judging(
        pairs,
        _settings(options, judge.max_tokens, judge.top_logprobs),
        judge=options.judge,
        template=None if options.template is None else read_template(options.template),
        server=server,
        max_prompt_characters=options.max_prompt_chars,
    )


def _settings(options: argparse.Namespace, max_tokens: int, top_logprobs: int) -> "ChatSettings":
    from neftune.errors import ConfigError
    from neftune.evaluation.preference.endpoint import ChatSettings

    try:
        temperature = None if options.temperature == "none" else float(options.temperature)
        extra = json.loads(options.extra)
    except ValueError as error:
        raise ConfigError(f'--temperature takes a number or "none", --extra a JSON object, got: {error}.') from error
    if not isinstance(extra, dict):
        raise ConfigError(f"--extra takes a JSON object, got {options.extra}.")
    if options.top_logprobs is not None and not top_logprobs:
        raise ConfigError(f"--top-logprobs is for the judge logprobs, got it with {options.judge}. Leave it out.")
    for name in ("max_tokens", "top_logprobs", "max_prompt_chars"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be >= 1, got {number}. Leave it out for the default.")
    if temperature is not None and not 0 <= temperature < float("inf"):
        raise ConfigError(f'--temperature must be a finite number >= 0, or "none", got {options.temperature}.')
    longest = options.max_tokens or (None if "max_completion_tokens" in extra else max_tokens)
    return ChatSettings(options.model, temperature, longest, None, options.top_logprobs or top_logprobs, (), extra)


def _show_plan(judging: "Judging", sides: "list[Outputs]", budget: "Budget", spent: "Usage", left: "Usage") -> None:
    """What will be asked, before it is."""
    same = sum(key is None for key in judging.keys)
    unsent = sum(key is not None and key not in judging.requests for key in judging.keys)
    lines = [f"{len(judging.pairs)} prompts: {same} with the same answer on both sides (draws, not asked)"]
    lines += [f"  {unsent} longer than --max-prompt-chars (null, not asked)"] if unsent else []
    lines += [
        f"  {side.num_empty} empty outputs in {side.source}, judged as they are" for side in sides if side.num_empty
    ]
    lines.append(
        f"{left.num_calls} calls to {judging.settings.model}, {spent.num_calls} answered before; estimated at four "
        f"characters a token: {left.prompt_tokens:,} prompt tokens, up to {left.completion_tokens:,} reply tokens"
    )
    cost = budget.cost(left)
    lines.append(
        "cost: unknown without --price-prompt and --price-completion"
        if cost is None
        else f"cost: up to {cost:.4g} more, {budget.cost(spent):.4g} spent before"
        + ("" if budget.max_cost is None else f", cap {budget.max_cost:g}")
    )
    print("\n".join(lines), file=sys.stderr)  # noqa: T201


def _show_first_prompt(judging: "Judging") -> None:
    for request in list(judging.requests.values())[:1]:
        for turn in request.turns:
            print(f"--- {turn.role}\n{turn.content}")  # noqa: T201


def _finish(
    options: argparse.Namespace, judging: "Judging", judged: "Judged", budget: "Budget", sides: "list[Outputs]"
) -> int:
    """Write the annotations, print the win rates, say what is missing."""
    from neftune.evaluation.annotations import read_annotations
    from neftune.evaluation.preference.pairing import annotation
    from neftune.study.store import write_json

    names = _names(options, sides)
    annotator = annotator_name(options, judging)
    id_field = sides[0].id_field if sides[0].id_field == sides[1].id_field else None
    rows = [
        annotation(pair, names, annotator, verdict.fields(), id_field)
        for pair, verdict in zip(judging.pairs, judged.verdicts, strict=True)
        if verdict.is_final
    ]
    path = options.annotations or _default_path(options, judging, names)
    counts = judged.counts()
    if rows:
        write_json(path, rows)
    if any(row["preference"] is not None for row in rows):
        _show_win_rates(read_annotations([path], by="generator")[0], counts, judged, budget, options)
    _say(f"verdicts: {', '.join(f'{number} {reason}' for reason, number in counts.items())}")
    _say(f"annotations of {len(rows)} of {len(judged.verdicts)} prompts: {path if rows else 'none written'}")
    for said in sorted({one.said for one in judged.verdicts if one.reason == "failed"})[:3]:
        _say(f"  failed: {said}")
    return exit_code(judged, is_nothing_read=all(row["preference"] is None for row in rows))


def annotator_name(options: argparse.Namespace, judging: "Judging") -> str:
    """What annotations call the judge: way of asking, model, and the template where it is not our own."""
    template = judging.template.name
    return f"{options.judge}:{judging.settings.model}" + (f":{template}" if template else "")


def exit_code(judged: "Judged", *, is_nothing_read: bool) -> int:
    """Say what was not judged, and why."""
    missing = sum(not one.is_final for one in judged.verdicts)
    if judged.stopped_by:
        _say(f"error: stopped: {judged.stopped_by}")
    elif missing:
        _say(f"error: {missing} prompts were not judged. The same command asks for them again.")
    elif is_nothing_read:
        _say(
            "error: no reply could be read as a verdict. See raw_completion in the annotations, and try another judge."
        )
    return 1 if missing or is_nothing_read else 0


def _names(options: argparse.Namespace, sides: "list[Outputs]") -> tuple[str, str]:
    first, second = options.names or [side.generator for side in sides]
    return (first, second) if first != second else (f"{first} (A)", f"{second} (B)")


def _default_path(options: argparse.Namespace, judging: "Judging", names: tuple[str, str]) -> Path:
    """One file per comparison: other outputs, template, model, settings or sides give another."""
    from neftune.records import content_hash

    kind = content_hash([*judging.keys, *names, options.judge, judging.max_prompt_characters], length=8)
    first, second = (re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "side" for name in names)
    return options.out / "judged" / f"{second}-vs-{first}-{options.judge}-{kind}.json"


def _show_win_rates(
    found: Any, counts: dict[str, int], judged: "Judged", budget: "Budget", options: argparse.Namespace
) -> None:
    from neftune.cli.winrate import table
    from neftune.evaluation.winrate_summary import Tables, summarise

    summary = summarise(found, Tables())
    if options.json:
        shown = {
            **asdict(summary),
            "verdicts": counts,
            "spent": asdict(judged.spent),
            "cost": budget.cost(judged.spent),
        }
        print(json.dumps(_plain(shown), indent=1))  # noqa: T201
        return
    print(table([summary], 0.1))  # noqa: T201
    cost = budget.cost(judged.spent)
    spent = f"{judged.spent.prompt_tokens:,} prompt and {judged.spent.completion_tokens:,} reply tokens"
    _say(f"{judged.spent.num_calls} answers, {spent}{'' if cost is None else f', cost {cost:.4g}'}")


def _plain(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return None if isinstance(value, float) and value != value else value


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


class _Progress:
    """A bar on a terminal, a line at every tenth elsewhere, and why there is a pause."""

    def __init__(self, total: int, budget: "Budget") -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = ("[progress.description]{task.description}", MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[cost]}"), console=console)
        self.is_live = console.is_terminal
        self.task = self.bar.add_task("judging", total=total, cost="")
        self.budget, self.told, self.said = budget, 0, set[str]()

    def __enter__(self) -> "_Progress":
        if self.is_live:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_live:
            self.bar.stop()

    def advance(self, done: int, total: int, spent: "Usage") -> None:
        """Show how far it is, and what is spent."""
        cost = self.budget.cost(spent)
        if self.is_live:
            self.bar.update(self.task, completed=done, cost="" if cost is None else f"cost {cost:.4g}")
        elif done * 10 // total > self.told:
            self.told = done * 10 // total
            _say(f"[{done}/{total}] judged{'' if cost is None else f', cost {cost:.4g}'}")

    def retry(self, said: str, seconds: float) -> None:
        """Say why there is a pause, each reason once."""
        from rich.markup import escape

        if said not in self.said:
            self.said.add(said)
            self.bar.console.print(escape(f"waiting {seconds:.1f} s: {said}"), highlight=False, soft_wrap=True)
