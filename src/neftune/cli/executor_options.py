"""The options of `neftune study` that say where its runs are performed, and with what."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neftune.study.executors.resources import Resources

SLURM = ("partition", "time", "memory", "setup", "option")


def add_executor_options(parser: argparse.ArgumentParser) -> None:
    """Where the runs are performed; `--threads` is every recipe verb's option."""
    where = parser.add_argument_group("where the runs are performed")
    where.add_argument(
        "--executor",
        default="local",
        metavar="NAME",
        help="local (processes on this machine), ray or slurm (default: %(default)s)",
    )
    where.add_argument("--workers", type=_positive, metavar="N", help="runs at a time (default: as there is room for)")
    where.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="X",
        help="GPUs per process of a run: 0.5 puts two runs on a GPU, 0 is the CPU (default: 1 where there are GPUs)",
    )
    where.add_argument("--address", help="the Ray cluster to join: auto or HOST:PORT (default: start one here)")
    where.add_argument("--slurm-partition", metavar="NAME", help="partition of the job array")
    where.add_argument("--slurm-time", metavar="TIME", help="longest time of one job, e.g. 12:00:00")
    where.add_argument("--slurm-memory", metavar="SIZE", help="memory per job, e.g. 32G")
    where.add_argument(
        "--slurm-setup", action="append", metavar="LINE", help="a shell line before the run, e.g. 'module load cuda'"
    )
    where.add_argument(
        "--slurm-option",
        action="append",
        metavar="OPTION",
        help="any other option of sbatch: --slurm-option=--qos=long",
    )


def study_resources(options: argparse.Namespace) -> "Resources":
    """What the options allow the runs to use.

    Raises:
        ConfigError: An option has an impossible value.
    """
    from neftune.study.executors.resources import Resources, SlurmOptions

    given = {name: value for name in SLURM if (value := getattr(options, f"slurm_{name}")) is not None}
    slurm = None
    if given:
        setup, more = tuple(given.pop("setup", ())), tuple(given.pop("option", ()))
        slurm = SlurmOptions(**given, setup=setup, options=more)
    return Resources(
        workers=options.workers,
        threads=options.threads,
        gpus_per_run=options.gpus_per_run,
        address=options.address,
        slurm=slurm,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number
