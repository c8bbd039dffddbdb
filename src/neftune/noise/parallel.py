"""Where one model trains on several ranks: what the ranks must tell each other for every one to add the right noise."""

import torch
import torch.distributed as dist


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
