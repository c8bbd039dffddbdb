"""`neftune lm-eval`: lm-eval's own command, with `--model neftune` in its list of models."""

import argparse
import sys
from collections.abc import Sequence

from neftune.errors import MissingExtraError

HELP = "Run lm-eval with one more model: `--model neftune` runs every shared prefix once."

EPILOG = """\
Everything after `neftune lm-eval` is lm-eval's own; `neftune lm-eval run --help` shows it. The model takes the
arguments of lm-eval's `hf`, and row_tokens (most tokens in a forward pass; bounds the memory) and score_cache (a
file in which finished log-likelihoods are kept, so that the same command goes on after a stop).

  neftune lm-eval --model neftune --model_args pretrained=MODEL --tasks arc_challenge --num_fewshot 25
        the numbers of --model hf, with a quarter of the work
  neftune lm-eval --model neftune --model_args pretrained=MODEL,peft=ADAPTER,score_cache=scores.sqlite --tasks mmlu
        an adapter; killed and started again, it goes on

In Python: import neftune.evaluation.scoring.lm_eval_model, then lm_eval.simple_evaluate(model="neftune", ...)."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """None of its own: lm-eval reads the arguments."""
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="of lm-eval")


def run(options: argparse.Namespace, knobs: Sequence[str]) -> int:
    """Give all arguments to lm-eval; returns its exit code.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        raise MissingExtraError(
            "`neftune lm-eval` needs lm-eval, which is not installed. Run pip install 'neftune[eval]'."
        ) from error
    import neftune.evaluation.scoring.lm_eval_model  # noqa: F401  (registers the model)

    sys.argv = ["lm-eval", *options.arguments, *knobs]
    try:
        cli_evaluate()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
