"""What one rank of several holds of a batch's embeddings, where tensor parallelism divides them.

# B rows, T tokens in a row, D width; b, t, d what one rank holds of them
"""

import sys
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from neftune.errors import NoiseError
from neftune.noise.add import Squares
from neftune.noise.parallel import on_several_ranks
from neftune.noise.tokens import TokenNoise

Spans = tuple[slice, slice, slice]
"""Rows, tokens and channels."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank holds of a batch's embeddings (B, T, D).

    Attributes:
        local: Its part, (b, t, d).
        width: D.
        spans: Which rows, tokens and channels these are; None for all of them.
        mesh: The ranks that hold the rest, or copies.
        is_copy: Whether all ranks of the mesh must hold the same.
    """

    local: Tensor
    width: int
    spans: Spans | None = None
    mesh: Any = None
    is_copy: bool = False

    @property
    def channels(self) -> slice | None:
        """The channels that it has, where it has not all."""
        return self.spans[2] if self.spans and self.local.shape[2] != self.width else None

    def tokens(self, batch: Tensor) -> Tensor:
        """Its part of something that every token of the batch has, (b, t) of (B, T)."""
        return batch if self.spans is None else batch[self.spans[0], self.spans[1]]


def is_distributed(value: object) -> bool:
    """Whether a value is a DTensor. Nothing is imported for it, and torch.compile can trace it."""
    return isinstance(value, Tensor) and hasattr(value, "device_mesh")


def is_divided(embedded: Tensor, input_ids: Tensor, embedding: nn.Module) -> bool:
    """Whether several ranks share the table of an embedding, or what it returned, other than by FSDP."""
    return is_distributed(embedded) or _mesh(embedding, input_ids) is not None


def whole(value: Any) -> Any:
    """A DTensor as the plain tensor of all its parts, on every rank; anything else as it is."""
    return value.full_tensor() if is_distributed(value) else value


def local(value: Any) -> Any:
    """A DTensor as what this rank holds of it; anything else as it is."""
    return value.to_local() if is_distributed(value) else value


def share_of(embedded: Tensor, input_ids: Tensor, embedding: nn.Module) -> Share:
    """This rank's share of the embeddings that a module returned.

    Args:
        embedded: What it returned.
        input_ids: What it was given: the batch's token ids (B, T), or a DTensor of them.
        embedding: The module.

    Raises:
        NoiseError: The ranks divide the embeddings in a way in which none can add its own noise.
    """
    shape = (*input_ids.shape, int(getattr(embedding, "embedding_dim", embedded.shape[-1])))
    if is_distributed(embedded):
        parts = cast(Any, embedded)
        spans, is_copy = _spans(tuple(embedded.shape), parts.device_mesh, parts.placements)
        return Share(parts.to_local(), embedded.shape[-1], spans, parts.device_mesh, is_copy)
    mesh = _mesh(embedding, input_ids)
    if tuple(embedded.shape) == shape or (mesh is None and not on_several_ranks()):
        return Share(embedded, embedded.shape[-1], mesh=mesh, is_copy=mesh is not None)
    for dim in range(3) if mesh is not None and mesh.ndim == 1 else ():
        spans = _chunk([slice(0, size) for size in shape], dim, mesh, 0)
        if tuple(span.stop - span.start for span in spans) == tuple(embedded.shape):
            return Share(embedded, shape[2], spans, mesh)
    raise NoiseError(
        f"the embedding must return (rows, tokens, width) = {list(shape)}, or one rank's part of it along one of them; "
        f"got {list(embedded.shape)}. Let the embedding return a DTensor (use_local_output=False), or all of it."
    )


def _mesh(embedding: nn.Module, input_ids: Any) -> Any:
    """The mesh of the ranks among which an embedding is divided; None where it is not, or by FSDP alone."""
    if is_distributed(input_ids):
        return input_ids.device_mesh
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    weight: Any = getattr(embedding, "weight", None)
    if not is_distributed(weight) or (fsdp is not None and isinstance(embedding, fsdp.FSDPModule)):
        return None
    return weight.device_mesh


def _spans(shape: tuple[int, ...], mesh: Any, placements: tuple[Any, ...]) -> tuple[Spans, bool]:
    spans = [slice(0, size) for size in shape]
    for i, placement in enumerate(placements):
        kind = type(placement).__name__
        if kind not in ("Replicate", "Shard"):
            raise NoiseError(
                "embeddings that ranks share must be replicated or sharded for each to add its own noise, got the "
                f"placement {kind}. Attach after parallelize_module, and let the embedding return Replicate() or "
                "Shard()."
            )
        if kind == "Shard":
            spans = list(_chunk(spans, placement.dim % len(shape), mesh, i))
    return (spans[0], spans[1], spans[2]), all(type(placement).__name__ == "Replicate" for placement in placements)


def _chunk(spans: list[slice], dim: int, mesh: Any, mesh_dim: int) -> Spans:
    """Spans of which this rank of a mesh holds its chunk along one dimension, as DTensor divides it."""
    first, stop = spans[dim].start, spans[dim].stop
    step = -(-(stop - first) // mesh.size(mesh_dim))
    begin = min(first + step * mesh.get_local_rank(mesh_dim), stop)
    part = [*spans[:dim], slice(begin, min(begin + step, stop)), *spans[dim + 1 :]]
    return part[0], part[1], part[2]


def add_channels(embedded: Tensor, noise: TokenNoise, channels: slice) -> tuple[Tensor, Squares]:
    """A noised copy of some channels of the embeddings, and what was added, as if all channels were like these.

    Args:
        embedded: (b, t, d).
        noise: The noise of its tokens, in all D channels.
        channels: Which d of the D these are.
    """
    values = noise.values(slice(None))[:, channels]
    noised = (embedded + values.view_as(embedded)).to(embedded.dtype)
    clean = embedded.detach().to(torch.float32).flatten(0, 1)
    factor = noise.width / max(1, embedded.shape[2])
    signal = clean.square().sum(dim=1) * noise.noised
    return noised, Squares(values.square().sum(dim=1) * factor, signal * factor)


def like(embedded: Tensor, noised: Tensor) -> Tensor:
    """A rank's noised part as what the embedding module returned: a DTensor where that was one.

    Args:
        embedded: What the module returned.
        noised: The rank's part of it, noised.
    """
    if not is_distributed(embedded):
        return noised
    parts = cast(Any, embedded)
    return parts.from_local(
        noised, parts.device_mesh, parts.placements, run_check=False, shape=parts.shape, stride=parts.stride()
    )
