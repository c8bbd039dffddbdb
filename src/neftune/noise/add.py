"""The noise into embeddings, in place, in one pass; and what was added and to what, per token.

# N tokens of the flattened batch, D width
"""

import functools
import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neftune.noise.tokens import TokenNoise

_CPU_NUMBERS = 1 << 17
_DEVICE_NUMBERS = 1 << 24
"""Numbers worked on at once: what stays in a CPU's second-level cache; what bounds a device's working memory."""


class Squares(NamedTuple):
    """Squared L2 norms per token, float32 (N,), 0 where there is no noise.

    Attributes:
        noise: Of the noise that was added, before the sum was rounded.
        signal: Of the clean embedding.
    """

    noise: Tensor
    signal: Tensor


@torch.no_grad()
def add_(embeddings: Tensor, noise: TokenNoise) -> Squares:
    """Add the noise to embeddings in place: computed in float32, rounded once to their dtype.

    Tokens without noise are not touched. Float64 embeddings are added to in float64.

    Args:
        embeddings: (N, D), floating point.
        noise: The noise of these tokens.
    """
    if not embeddings.numel():
        return Squares(torch.zeros_like(noise.scale), torch.zeros_like(noise.scale))
    kernels = _kernels(embeddings.device)
    if kernels is not None and kernels.supports(embeddings, noise):
        return kernels.add_noise_(embeddings, noise)
    squares = Squares(torch.zeros_like(noise.scale), torch.zeros_like(noise.scale))
    for rows in _parts(noise):
        values, clean = noise.values(rows), embeddings[rows]
        squares.noise[rows] = _squared_norms(values)
        squares.signal[rows] = _squared_norms(clean) * noise.noised[rows]
        if isinstance(rows, slice) and clean.dtype in (torch.float32, torch.float64):
            clean.add_(values)
        else:
            embeddings[rows] = (clean + values).to(clean.dtype)
    return squares


@functools.cache
def _kernels(device: torch.device) -> Any:
    """The module with this device's own one-pass sum, where what it needs is installed (Triton, numba)."""
    if device.type == "cpu":
        name = "compiled"
    elif device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        name = "kernels"
    else:
        return None
    try:
        return importlib.import_module(f"neftune.noise.{name}")
    except ImportError:
        return None


def _parts(noise: TokenNoise) -> Iterator[slice | Tensor]:
    """Tokens to work on at once: the noised ones on a CPU; all of them elsewhere, where to count them would wait."""
    num_tokens = noise.noised.numel()
    on_cpu = noise.noised.device.type == "cpu"
    step = max(1, (_CPU_NUMBERS if on_cpu else _DEVICE_NUMBERS) // noise.width)
    chosen = noise.noised.nonzero()[:, 0] if on_cpu else None
    if chosen is None or chosen.numel() == num_tokens:
        yield from (slice(i, i + step) for i in range(0, num_tokens, step))
    else:
        yield from torch.split(chosen, step)


def _squared_norms(values: Tensor) -> Tensor:
    # A norm stays in float32 under autocast, a product does not.
    wide = values.to(torch.float32) if values.element_size() < 4 else values
    norms: Tensor = torch.linalg.vector_norm(wide, dim=-1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return norms.to(torch.float32).square()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
