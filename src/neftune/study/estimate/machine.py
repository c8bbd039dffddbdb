"""Where a study would run: named hardware, or this machine."""

import os
from dataclasses import dataclass

from neftune.errors import ConfigError
from neftune.study.estimate.hardware import UTILISATION, Hardware, hardware


@dataclass(frozen=True, slots=True)
class Machine:
    """Processors that share a study's runs.

    Attributes:
        name: As `--hardware` says it; "cpu" for this machine's processor.
        title: In words.
        processors: How many.
        memory: Bytes that one run may take: of a GPU all, of this machine its share.
        one: What the data sheet says; None for a CPU, whose speed is measured.
        utilisation: Share of the peak that training is assumed to reach.
    """

    name: str
    title: str
    processors: int
    memory: float
    one: Hardware | None
    utilisation: float = UTILISATION


def find_machine(name: str | None, *, processors: int | None, workers: int, utilisation: float | None) -> Machine:
    """The machine that is named, else this one: its GPUs where it has some that are known, else its cores.

    Args:
        name: An entry of `hardware`, "cpu", or None for this machine.
        processors: How many; None takes those of this machine, or one.
        workers: Runs at a time on a CPU.
        utilisation: In place of the assumed share of the peak.

    Raises:
        ConfigError: A number is out of range.
        UnknownNameError: No hardware has this name.
    """
    if utilisation is not None and not 0 < utilisation <= 1:
        raise ConfigError(f"--mfu must be a share of the peak, above 0 and at most 1, got {utilisation}.")
    found, here = (_gpu_here() if name is None else (name, 1)) or ("cpu", workers)
    if found == "cpu":
        if utilisation is not None:
            raise ConfigError("--mfu is for hardware with a data sheet, got a CPU, whose speed is measured.")
        if processors is not None:
            raise ConfigError("--gpus is for GPUs, got a CPU. Name --hardware, or say --workers.")
        title = f"this machine, {os.cpu_count()} cores"
        return Machine("cpu", title, workers, _memory_here() / workers, None)
    one = hardware[found]
    return Machine(found, one.title, processors or here, one.memory, one, utilisation or UTILISATION)


def _gpu_here() -> tuple[str, int] | None:
    """The name and number of this machine's GPUs; None where it has none that the table knows."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0).lower().replace(" ", "")
    known = sorted(hardware, key=len, reverse=True)
    return next(((one, torch.cuda.device_count()) for one in known if one.split("-")[0] in name), None)


def _memory_here() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
