"""`neftune study RECIPE --dry-run`: what a study will take, before anything starts."""

import argparse
import json
import sys

from neftune.config import Recipe
from neftune.errors import ConfigError

_ALONE = ("hardware", "gpus", "mfu", "tokens_per_example", "json")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a dry run."""
    group = parser.add_argument_group("dry run")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print runs, tokens, time, memory and disk, and start nothing; the model's config.json is enough",
    )
    group.add_argument("--hardware", metavar="NAME", help="for this processor: h100, a100, ... (default: this machine)")
    group.add_argument("--gpus", type=int, metavar="N", help="that share the study's runs (default: 1)")
    group.add_argument("--mfu", type=float, metavar="SHARE", help="of the peak while training (default: 0.3, assumed)")
    group.add_argument(
        "--tokens-per-example", type=float, metavar="MEAN", help="in place of the data's, where it is not here"
    )
    group.add_argument("--json", action="store_true", help="print the estimate as JSON")


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that only a dry run obeys.

    Raises:
        ConfigError: One of them was given without --dry-run.
    """
    given = [name for name in _ALONE if getattr(options, name) not in (None, False)]
    if given and not options.dry_run:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for a dry run. Add --dry-run, or leave it out.")


def dry_run(recipe: Recipe, options: argparse.Namespace, *, workers: int) -> int:
    """Print the estimate; 0 if every run fits into memory, else 1."""
    import torch
    from rich.console import Console

    from neftune.analysis.choosing import HeldOut
    from neftune.report.estimate import estimate_data, estimate_text
    from neftune.study.estimate.estimate import estimate_study
    from neftune.study.estimate.machine import find_machine

    if options.gpus is not None and options.gpus < 1:
        raise ConfigError(f"--gpus must be 1 or more, got {options.gpus}.")
    stated = options.tokens_per_example
    if stated is not None and not 1 <= stated < float("inf"):
        raise ConfigError(f"--tokens-per-example must be 1 or more, got {stated}.")
    machine = find_machine(options.hardware, processors=options.gpus, workers=workers, utilisation=options.mfu)
    torch.set_num_threads(options.threads)
    with Console(stderr=True).status("reading data and config, measuring this machine where nothing is known of it"):
        estimate = estimate_study(
            recipe, root=options.out, machine=machine, choosing=HeldOut(), tokens_per_example=stated
        )
    text = json.dumps(estimate_data(estimate), indent=1) if options.json else estimate_text(estimate)
    sys.stdout.write(text + "\n")
    return 0 if all(one.fits for _, one in estimate.kinds) else 1
