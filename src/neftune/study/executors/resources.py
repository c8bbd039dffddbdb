"""What the runs of a study may use, said once for every executor."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from neftune.errors import ConfigError
from neftune.records import PlannedRun


@dataclass(frozen=True, slots=True)
class Resources:
    """What a study's runs may use.

    Attributes:
        workers: Runs at a time; None: as many as there is room for.
        threads: CPU threads per process of a run; results are bit-identical for equal numbers.
        gpus_per_run: GPUs per process of a run: 0.25 puts four runs on a GPU, 0 keeps them on the CPU; None: one
            where there are GPUs.
        address: The Ray cluster to join ("auto" or "HOST:6379"); None takes the one that RAY_ADDRESS names,
            or else starts one on this machine.
        slurm: Options of the batch script, for the executor "slurm".
    """

    workers: int | None = None
    threads: int = 1
    gpus_per_run: float | None = None
    address: str | None = None
    slurm: "SlurmOptions | None" = None

    def __post_init__(self) -> None:
        if self.threads < 1 or (self.workers is not None and self.workers < 1):
            raise ConfigError(
                f"workers and threads must be 1 or more, got {self.workers} and {self.threads}. Leave them out for "
                "one thread a run and as many runs as there are cores."
            )
        gpus = self.gpus_per_run
        if gpus is not None and not (gpus == 0 or 0 < gpus <= 1 or (gpus > 1 and float(gpus).is_integer())):
            raise ConfigError(
                f"gpus_per_run must be a share of one GPU or whole GPUs, got {gpus}. Use 0.5 (two runs a GPU) or 1."
            )

    @property
    def runs_per_gpu(self) -> int:
        """How many runs share a GPU; 1 where a run takes whole ones."""
        gpus = self.gpus_per_run
        return math.floor(1 / gpus + 1e-9) if gpus else 1


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """What a job array's script asks Slurm for, beside cores and GPUs.

    Attributes:
        partition: The partition; None: the site's default.
        time: Longest time of one job, as Slurm writes it ("12:00:00"); None: the site's default.
        memory: Memory per job ("32G"); None: the site's default.
        setup: Shell lines before the run ("module load cuda", "source venv/bin/activate").
        options: Any other options of sbatch ("--account=lab", "--qos=long").
    """

    partition: str | None = None
    time: str | None = None
    memory: str | None = None
    setup: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option in self.options:
            if not option.startswith("-") or "\n" in option:
                raise ConfigError(f"an option of sbatch must be like --account=lab, got {option!r}.")
        for name in ("partition", "time", "memory"):
            value = getattr(self, name)
            if value is not None and (not value or any(one.isspace() for one in value)):
                raise ConfigError(f"slurm {name} must be one word, got {value!r}.")


def world_size(run: PlannedRun) -> int:
    """The number of processes that a run trains with."""
    return int(run.config.get("train", {}).get("world_size", 1))


def largest_world(runs: Iterable[PlannedRun]) -> int:
    """The most processes that any of the runs trains with."""
    return max(map(world_size, runs), default=1)


def refuse(resources: Resources, executor: str, unused: tuple[str, ...]) -> None:
    """Refuse what an executor would not obey.

    Raises:
        ConfigError: One of ``unused`` is given.
    """
    for name in unused:
        if getattr(resources, name) is not None:
            option = {"address": "--address", "slurm": "a --slurm-... option"}[name]
            owner = {"address": "ray", "slurm": "slurm"}[name]
            raise ConfigError(
                f"{option} belongs to --executor {owner}, got the executor {executor}. Leave it out, or name {owner}."
            )
