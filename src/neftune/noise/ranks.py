"""One batch on several ranks: from what each was given to the noise of the part that it holds."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from neftune.errors import ConfigError
from neftune.noise.add import Squares
from neftune.noise.documents import Layout
from neftune.noise.given import Given
from neftune.noise.parallel import check_mesh, on_several_ranks
from neftune.noise.perturb import noise_in_place
from neftune.noise.phases import in_backward
from neftune.noise.sequence import SequenceGroup, SequenceShards, refuse_context_parallel, refuse_parts
from neftune.noise.shares import Share, add_channels, like, share_of, whole
from neftune.noise.tokens import TokenNoise


class Ranks:
    """How the ranks of one training share their batches.

    Args:
        sequence_group: The ranks that share each row; None where every rank holds whole rows.
        sequence_shards: How they do.

    Raises:
        ConfigError: No such process group or order of shards, or an order without a group.
    """

    def __init__(self, sequence_group: Any = None, sequence_shards: SequenceShards | None = None) -> None:
        if sequence_group is None and sequence_shards is not None:
            raise ConfigError(
                f"sequence_shards={sequence_shards!r} needs sequence_group, got none. Pass the group too."
            )
        self._sequence = (
            None if sequence_group is None else SequenceGroup(sequence_group, sequence_shards or "contiguous")
        )
        self._num_forwards = 0

    def read(
        self, embedded: Tensor, input_ids: Tensor, given: Given, draw: int, embedding: nn.Module
    ) -> tuple[Share, Tensor, Given]:
        """This rank's share of the embeddings; the token ids of the whole batch, and what was said about them.

        Raises:
            NoiseError: The ranks share the batch in a way in which the noise cannot be exact.
        """
        share, is_due = share_of(embedded, input_ids, embedding), self._is_due()
        if share.mesh is not None and is_due:
            check_mesh(share.mesh, share.local, draw, is_copy=share.is_copy)
        input_ids, given = whole(input_ids), Given(*(whole(value) for value in given))
        if self._sequence is not None:
            return share, *self._sequence.whole(input_ids, given, draw, check=is_due)
        refuse_context_parallel()
        return share, input_ids, given

    def _is_due(self) -> bool:
        """Whether to see if the ranks agree, for which hosts wait: at forwards 1, 2, 4, 8, ..., so at no cost."""
        if in_backward():
            return False
        self._num_forwards += 1
        return not self._num_forwards & (self._num_forwards - 1)

    def refuse_parts(self, layout: Layout, given: Given, *, may_read: bool) -> None:
        """Refuse documents of which this rank sees a part and knows no more, where it may read positions."""
        positions = given.position_ids
        if may_read and positions is not None and positions.ndim == 2 and on_several_ranks():
            refuse_parts(layout, positions)

    def add(
        self, embedded: Tensor, share: Share, noise: TokenNoise, layout: Layout
    ) -> tuple[Tensor, Squares, TokenNoise, Layout]:
        """The embeddings with the noise in them, what was added, and noise and layout of this rank's tokens.

        Args:
            embedded: What the embedding module returned.
            share: This rank's share of it.
            noise: The noise of the whole batch.
            layout: The documents of the whole batch.
        """
        if self._sequence is not None or share.spans is not None:
            shape = layout.real.shape
            layout = Layout(
                self._own(share, layout.real),
                self._own(share, layout.document),
                self._own(share, layout.position),
                self._own(share, layout.length),
                layout.lengths,
            )
            fields = {name: getattr(noise, name).view(shape) for name in ("keys", "positions", "scale", "noised")}
            noise = dataclasses.replace(noise, **{k: self._own(share, v).flatten() for k, v in fields.items()})
        if share.channels is not None:
            noised, squares = add_channels(share.local, noise, share.channels)
        else:
            noised, squares = noise_in_place(share.local, noise)
        return like(embedded, noised), squares, noise, layout

    def _own(self, share: Share, batch: Tensor) -> Tensor:
        return share.tokens(batch if self._sequence is None else self._sequence.own(batch))
