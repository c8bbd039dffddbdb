"""`neftune VERB`: reads the arguments, calls the verb, turns errors into one message and an exit code."""

import argparse
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import neftune
from neftune.cli.executor_options import add_executor_options
from neftune.errors import NeftuneError

DESCRIPTION = """\
Adds the NEFTune noise (arXiv 2310.05914) exactly, and says with evidence whether it helps your model on your data."""

EPILOG = """\
Start here:
  neftune study recipes/quickstart.yaml       the whole experiment on an embedded small world, offline, in minutes
  neftune study recipes/alpaca-small.yaml --model.path MODEL --data.source FILE
                                              the same question for your model and data
  neftune audit --model.path MODEL --data.source FILE
                                              what transformers' neftune_noise_alpha really gives your documents
In your own training script:
  handle = neftune.attach(model, alpha=5)     or  Trainer(..., callbacks=[neftune.NoiseCallback(alpha=5)])

Exit codes: 0 done, 1 the work failed, 2 the input is wrong."""

AUDIT_EPILOG = """\
Trains the model with TRL's SFTTrainer at learning rate 0 for some batches, and compares what comes out of its token
embedding with what the embedding alone would give. "of alpha" is the alpha that a document really got over the nominal
one: 1.00 is the paper's noise. Also run: one evaluation, and one pass in training mode without gradients.

  neftune audit --model.path MODEL --data.source FILE
        what transformers' neftune_noise_alpha=5 does to your documents, in padded batches of 4
  neftune audit --model.path MODEL --data.source FILE --provider neftune
        the same with this package's callback: 1.00 at every length
  neftune audit recipe.yaml --layout packed --data.max-length 2048 --json audit.json --figure audit.html
        a recipe's model and data, in packed rows of 2048 tokens

Any other pipeline, in your own script:
  with neftune.audit(trainer) as audit: trainer.train()
  print(audit.result())"""

VERBS: dict[str, str] = {"list": "listed"}
"""Verbs whose function has another name."""

OWN_MODULES: dict[str, str] = {
    "benchmark": "neftune.cli.benchmark",
    "generate": "neftune.cli.generate",
    "judge": "neftune.cli.judge",
    "lm-eval": "neftune.cli.lm_eval",
    "study status": "neftune.cli.study_status",
    "study prune": "neftune.cli.study_prune",
    "export": "neftune.cli.export",
    "winrate": "neftune.cli.winrate",
    "mt-bench": "neftune.cli.mt_bench",
}
"""Verbs in a module of their own (HELP, EPILOG, add_options, run), which imports nothing heavy when it is read.
A verb may have two words ("study status")."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Model text may hold lone surrogates, which UTF-8 does not; stderr shows them so already.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["lm-eval"] and given[1:] not in ([], ["-h"], ["--help"]):
        # All that follows is another program's, options of the same names as ours too.
        options = argparse.Namespace(verb="lm-eval", arguments=given[1:], debug=False)
        knobs: list[str] = []
    else:
        plain, dotted = _split(given)
        options, unknown = parser.parse_known_args(plain)
        knobs = [*unknown, *dotted]
        if knobs and not options.takes_knobs:
            parser.error(f"{options.verb} takes no {knobs[0]!r}. `neftune {options.verb} --help` lists its options.")
    try:
        return _function(options.verb)(options, knobs)
    except NeftuneError as error:
        if options.debug:
            traceback.print_exc()
        _say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("stopped. What is finished is kept; the same command goes on from there.")
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        if options.debug:
            raise
        _say(
            f"error: {type(error).__name__}: {error}\n(not an error we foresaw: --debug shows where; please report it)"
        )
        return 1


def _function(verb: str) -> Callable[[argparse.Namespace, list[str]], int]:
    if verb in OWN_MODULES:
        return import_module(OWN_MODULES[verb]).run
    if verb == "study":
        return import_module("neftune.cli.study").run
    return getattr(import_module("neftune.cli.verbs"), VERBS.get(verb, verb))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments of the verb, and dotted settings with the values after them; a recipe stands before its settings."""
    plain: list[str] = []
    dotted: list[str] = []
    into = plain
    for argument in _verb_first(arguments):
        if argument.startswith("-"):
            into = dotted if argument.startswith("--") and "." in argument.split("=")[0] else plain
        into.append(argument)
    return plain, dotted


def _verb_first(arguments: list[str]) -> list[str]:
    """The arguments with a verb of two words as one ("study status")."""
    both = " ".join(arguments[:2])
    return [both, *arguments[2:]] if " " in both and both in OWN_MODULES else arguments


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("neftune", description=DESCRIPTION, epilog=EPILOG, formatter_class=plain)
    parser.add_argument("--version", action="version", version=f"neftune {neftune.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str, *, knobs: bool = False) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=help, description=help, add_help=not knobs, formatter_class=plain)
        one.set_defaults(takes_knobs=knobs)
        one.add_argument(
            "--out", type=Path, default=Path("neftune-runs"), help="folder of all runs (default: %(default)s)"
        )
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if knobs:
            one.add_argument("recipe", type=Path, nargs="?", help="a recipe (YAML)")
            one.add_argument("-h", "--help", action="store_true", help="show this, and every setting of the recipe")
            one.add_argument("--skip-bad", action="store_true", help="skip and count broken rows of the data")
            one.add_argument("--threads", type=_positive, default=1, help="CPU threads per run (default: 1)")
        return one

    study = verb("study", "Train baseline and noisy arms as pairs over seeds, evaluate, write the verdict.", knobs=True)
    add_executor_options(study)
    import_module("neftune.cli.estimate").add_options(study)
    train = verb("train", "Train one run of a recipe and keep its weights.", knobs=True)
    train.add_argument("--folder", type=Path, help="where the trained run goes (default: OUT/trained/NAME)")
    evaluate = verb("evaluate", "Evaluate a trained run, or any checkpoint, noise off.", knobs=True)
    evaluate.add_argument("--run", type=Path, help="a folder made by `neftune train`, in place of a recipe")
    audit = verb("audit", "See what noise a training pipeline really gives a model's documents.", knobs=True)
    _add_audit_options(audit)
    compare = verb("compare", "Compare two evaluated runs, or two output files, prompt by prompt.")
    compare.add_argument("baseline", type=Path, help="a run folder, or a JSON/JSONL file of {instruction, output}")
    compare.add_argument("other", type=Path, help="the same, for what is compared with it")
    compare.add_argument("--json", action="store_true", help="print JSON")
    report = verb("report", "Write the report of a study again, also of one that is still running.")
    report.add_argument("study", help="the study's name, or its folder")
    shown = verb("list", "List studies and runs, or what can be named in a recipe.")
    shown.add_argument("what", nargs="?", default="studies", help="studies, runs, or a registry (default: studies)")
    shown.add_argument("--json", action="store_true", help="print JSON")
    for name, module in OWN_MODULES.items():
        own = import_module(module)
        one = verb(name, own.HELP)
        one.epilog = own.EPILOG
        own.add_options(one)
    return parser


def _add_audit_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.epilog = AUDIT_EPILOG
    parser.add_argument("--alpha", type=float, default=5.0, help="nominal scale of the noise (default: %(default)g)")
    parser.add_argument(
        "--provider",
        default="transformers",
        help="who adds the noise: transformers (neftune_noise_alpha), neftune (NoiseCallback) or none (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--layout",
        default="padded",
        help="padded, packed (into rows of --data.max-length tokens) or padding-free (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=4, help="rows per forward pass (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=50, help="training steps (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="write the figure as one HTML file (needs plotly)")


def verb_help(verb: str) -> str:
    """The help of a verb's own options."""
    actions = [one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return actions[0].choices[verb].format_help()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


def _say(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
