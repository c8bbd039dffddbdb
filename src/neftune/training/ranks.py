"""The ranks that train one run together: what the first one knows all of them learn, what each one holds all see.

They tell each other plain data as JSON. torch's own functions for objects would unpickle what arrives.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from neftune.errors import ConfigError
from neftune.noise.parallel import on_several_ranks
from neftune.training.randomness import stream_seed


def num_ranks() -> int:
    """How many processes train this run together; 1 where there is no process group."""
    return dist.get_world_size() if on_several_ranks() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if on_several_ranks() else 0


def is_first() -> bool:
    """Whether this process speaks for the run: it measures, reports, saves and evaluates."""
    return rank() == 0


def from_first(make: Callable[[], Any]) -> Any:
    """What ``make`` gives on the first rank, on every rank; the others never call it. Every rank must ask.

    Args:
        make: Gives plain data.
    """
    if not on_several_ranks():
        return make()
    own = _to_bytes(make() if is_first() else None)
    size = torch.tensor([len(own)], device=own.device)
    dist.broadcast(size, src=0)
    text = own if is_first() else own.new_empty(int(size))
    dist.broadcast(text, src=0)
    return _from_bytes(text)


def from_every(value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks. Every rank must ask, and none gets past it before all have.

    Args:
        value: Plain data.
    """
    if not on_several_ranks():
        return [value]
    own = _to_bytes(value)
    sizes = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(num_ranks())]
    dist.all_gather(sizes, torch.tensor([len(own)], device=own.device))
    longest = max(int(size) for size in sizes)
    texts = [own.new_empty(longest) for _ in sizes]
    dist.all_gather(texts, torch.nn.functional.pad(own, (0, longest - len(own))))
    return [_from_bytes(text[: int(size)]) for text, size in zip(texts, sizes, strict=True)]


def dropout_seed(seed: int) -> int:
    """The seed of this rank's dropout: the first rank has that of a run in one process, every other one its own.

    Args:
        seed: The run's seed.
    """
    return stream_seed(seed, f"dropout of rank {rank()}" if rank() else "dropout")


def require_ranks(world_size: int, *, num_devices: int, num_processes: int) -> None:
    """Refuse a number of processes or devices that would change what an optimiser batch is.

    Args:
        world_size: As `train.world_size` asks.
        num_devices: GPUs that this process would spread a batch over.
        num_processes: Processes that train together.

    Raises:
        ConfigError: It is not one device in each of ``world_size`` processes.
    """
    if num_processes != world_size and world_size > 1:
        raise ConfigError(
            f"a run with train.world_size {world_size} must train on {world_size} ranks, got {num_processes} "
            f"process{'es' if num_processes > 1 else ''}. Start it with `neftune study` or `neftune train`, or under "
            f"torchrun --nproc-per-node {world_size}."
        )
    # The trainer would give every device a micro-batch of its own: the optimiser batch times the devices.
    if num_devices > 1 or num_processes != world_size:
        raise ConfigError(
            f"a run must train on one device in one process, so that train.batch_size holds; got {num_devices} "
            f"visible GPUs and {num_processes} processes. Set CUDA_VISIBLE_DEVICES=0 and start without a "
            "distributed launcher, or set --train.world_size."
        )


def _to_bytes(value: Any) -> torch.Tensor:
    # Ranks with NCCL alone send from their GPU.
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)


def _from_bytes(text: torch.Tensor) -> Any:
    return json.loads(text.cpu().numpy().tobytes())
