"""Context and sequence parallelism: several ranks hold one batch, each a part of every row.

# B rows, t tokens of a row on each rank, T tokens of the whole row, n ranks
"""

import sys
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from neftune.errors import ConfigError, NoiseError
from neftune.noise.documents import Layout
from neftune.noise.given import Given
from neftune.noise.parallel import check_draws

SequenceShards = Literal["contiguous", "zigzag"]


class SequenceGroup:
    """The ranks among which every row is divided, and how.

    Args:
        group: Their process group, ``mesh["cp"].get_group()``.
        shards: "contiguous": rank r holds the r-th of n parts. "zigzag": it holds the r-th part of 2n and the r-th from
            the end, as torch's context_parallel balances the load; rows that 2n does not divide are contiguous there.

    Raises:
        ConfigError: No such process group or order of shards.
    """

    def __init__(self, group: "dist.ProcessGroup", shards: SequenceShards) -> None:
        if shards not in ("contiguous", "zigzag"):
            raise ConfigError(
                f'sequence_shards must be "contiguous" or "zigzag", got {shards!r}. Use "zigzag" with torch\'s '
                'context_parallel and "contiguous" where rank r holds the r-th part of each row.'
            )
        if not isinstance(group, dist.ProcessGroup):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                f"sequence_group must be a process group, got {type(group).__name__}. "
                'Pass the one of the ranks that share each row, as mesh["cp"].get_group() gives it.'
            )
        self._group = group
        self._shards = shards
        self._size, self._rank = group.size(), group.rank()

    def whole(self, input_ids: Tensor, given: Given, draw: int, *, check: bool) -> tuple[Tensor, Given]:
        """The ids of the whole rows and what was said about them, put together from all ranks in one exchange.

        Args:
            input_ids: This rank's (B, t).
            given: What the model was told of this rank's tokens.
            draw: The exposure, on which the ranks must agree.
            check: Whether to look if they do, for which the host waits.

        Raises:
            NoiseError: Something given belongs to no part of the rows, or the ranks draw different exposures.
        """
        if given.cu_seqlens is not None:
            raise NoiseError(
                "in a sequence group documents must be told apart by position_ids, got boundaries (cu_seq_lens_q), "
                "which do not say whether they count this rank's tokens or the whole row's. Pass position_ids."
            )
        parts = {"input_ids": input_ids, "draw": torch.full_like(input_ids, draw, dtype=torch.int64)}
        known: dict[str, Tensor | None] = {}
        for name, value in given._asdict().items():
            if value is None or self._is_whole(name, value, input_ids.shape):
                known[name] = value
            elif name == "labels" and value.shape != input_ids.shape:
                known[name] = None  # another stack's
            else:
                parts[name] = self._part(name, value, input_ids.shape)
        gathered = self._gather(torch.stack([part.to(torch.int64) for part in parts.values()]))
        rows = dict(zip(parts, gathered, strict=True))
        draws, ids = rows.pop("draw"), rows.pop("input_ids")
        if check:
            check_draws(draws)
        return ids, Given(**known, **rows)

    def own(self, batch: Tensor) -> Tensor:
        """This rank's part of the whole rows, (B, t) of (B, T)."""
        pieces = batch.chunk(self._num_pieces(batch.shape[1] // self._size), dim=1)
        held = [self._rank] if len(pieces) == self._size else [self._rank, len(pieces) - 1 - self._rank]
        return torch.cat([pieces[i] for i in held], dim=1)

    def _num_pieces(self, num_tokens: int) -> int:
        return 2 * self._size if self._shards == "zigzag" and num_tokens % 2 == 0 else self._size

    def _is_whole(self, name: str, value: Tensor, shape: torch.Size) -> bool:
        per_row = name == "document_keys" and value.shape == shape[:1]
        return per_row or (value.ndim == 2 and value.shape[1] == self._size * shape[1])

    def _part(self, name: str, value: Tensor, shape: torch.Size) -> Tensor:
        if value.ndim == 2 and value.shape[1] == shape[1] and value.shape[0] in (1, shape[0]):
            return value.expand(shape)
        raise NoiseError(
            f"in a sequence group {name} must have the shape of this rank's tokens, {list(shape)}, or of the whole "
            f"rows, {[shape[0], self._size * shape[1]]}; got {list(value.shape)}. Divide it like input_ids."
        )

    def _gather(self, parts: Tensor) -> Tensor:
        """(k, B, t) of every rank as (k, B, T)."""
        held = [torch.empty_like(parts) for _ in range(self._size)]
        dist.all_gather(held, parts.contiguous(), group=self._group)  # pyright: ignore[reportUnknownMemberType]
        if self._num_pieces(parts.shape[2]) == self._size:
            return torch.cat(held, dim=2)
        halves = [part.chunk(2, dim=2) for part in held]
        return torch.cat([first for first, _ in halves] + [second for _, second in reversed(halves)], dim=2)


def refuse_parts(layout: Layout, position_ids: Tensor) -> None:
    """Refuse rows in which a document begins elsewhere than at position 0: they are parts of longer ones.

    Positions may also count from the beginning of the row, padding included. Reads values.

    Args:
        layout: Documents of the batch.
        position_ids: (B, T) or (1, T).

    Raises:
        NoiseError: A document begins in its midst.
    """
    places = torch.arange(layout.real.shape[1], device=position_ids.device)
    begins = layout.real & (layout.position == 0)
    wrong = begins & (position_ids != 0) & (position_ids != places)
    if bool(wrong.any()):
        raise NoiseError(
            "a rank must know the whole document that its tokens belong to, got rows in which documents begin at "
            f"position {int(position_ids.expand(wrong.shape)[wrong][0])}. If ranks share each row (context or sequence "
            'parallelism), pass sequence_group and the right sequence_shards, "contiguous" or "zigzag"; else pass '
            "position_ids that begin at 0 in every document."
        )


def refuse_context_parallel() -> None:
    """Refuse a forward inside torch's context_parallel without knowing the ranks that share its rows.

    Raises:
        NoiseError: It is active.
    """
    module: Any = sys.modules.get("torch.distributed.tensor.experimental._context_parallel._attention")
    replaced = getattr(module, "_replaced_functions", {})
    if torch.nn.functional.scaled_dot_product_attention in replaced:
        raise NoiseError(
            "inside context_parallel each rank holds parts of documents, and the noise needs the ranks that hold the "
            'rest; got no sequence_group. Attach with sequence_group=mesh.get_group(), sequence_shards="zigzag".'
        )
