"""What ranks that train one model tell each other: sums for the log, and that they draw the same exposures."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from neftune.errors import NoiseError

_EQUAL = 1e-3
"""By how much the sums of one tensor may differ between ranks; partial sums of several differ by far more."""


def on_several_ranks() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """The sum of each value over all ranks, every one of which must ask; the values themselves on a single rank.

    Args:
        values: This rank's.
        device: One that the ranks' backend can send from.
    """
    if not on_several_ranks():
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)  # pyright: ignore[reportUnknownMemberType]
    return [float(value) for value in sums.cpu()]


def check_mesh(mesh: Any, embedded: Tensor, draw: int, *, is_copy: bool) -> None:
    """Refuse ranks of one mesh that share a batch and do not agree on it. Every one of them must ask.

    Args:
        mesh: Their device mesh.
        embedded: This rank's embeddings.
        draw: Its exposure.
        is_copy: Whether every rank's embeddings must be the same.

    Raises:
        NoiseError: They draw different exposures, or hold different parts where they must hold copies.
    """
    total = embedded.detach().to(torch.float64).abs().sum()
    own = torch.stack([torch.full_like(total, draw, dtype=torch.int64), total.view(torch.int64)])
    for dim in range(mesh.ndim):
        parts = [torch.empty_like(own) for _ in range(mesh.size(dim))]
        dist.all_gather(parts, own, group=mesh.get_group(dim))  # pyright: ignore[reportUnknownMemberType]
        every = torch.stack(parts).cpu()
        check_draws(every[:, 0])
        if is_copy:
            _check_copies(every[:, 1].view(torch.float64))


def check_draws(draws: Tensor) -> None:
    """Refuse exposures that differ among ranks which share a batch; waits for the device.

    Raises:
        NoiseError: They do.
    """
    if int(draws.min()) != int(draws.max()):
        raise NoiseError(
            "ranks that share a batch must draw the same exposure, got ones from "
            f"{int(draws.min())} to {int(draws.max())}. Seed torch alike on them "
            "(torch.manual_seed), or tell all of them the epoch (handle.set_epoch)."
        )


def _check_copies(totals: Tensor) -> None:
    if float(totals.max() - totals.min()) > _EQUAL * float(totals.max()):
        raise NoiseError(
            "ranks among which the embedding is divided must all return the same embeddings, got sums of sizes "
            f"{[round(float(total), 3) for total in totals]}. Give them the same batch, and let the embedding return "
            "Replicate() or Shard(), not Partial()."
        )
