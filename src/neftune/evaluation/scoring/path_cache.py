"""Keys and values of one path from the tree's root, in buffers that are written in place."""

from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PathLayer(CacheLayerMixin):
    """One layer's keys and values: a prefix, and after it the row that is being run."""

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Buffers of the layer's own heads, widths, type and device."""
        self.keys, self.values = (
            torch.empty(*states.shape[:2], self._capacity, states.shape[-1], dtype=states.dtype, device=states.device)
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the row after the prefix, and return both without a copy."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        stop = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : stop] = key_states
        self.values[:, :, self.length : stop] = value_states
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def settle(self, kept: int, moved: Tensor) -> None:
        """Make the prefix of the next row: `kept` tokens of this one's, then those of its row that `moved` names."""
        assert self.keys is not None
        assert self.values is not None
        stop = kept + len(moved)
        for buffer in (self.keys, self.values):
            places = self.length + moved.to(buffer.device)
            buffer[:, :, kept:stop] = buffer.index_select(2, places)
        self.length = stop

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys a row of this length sees, from which on."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens of the prefix."""
        return self.length

    def get_max_length(self) -> int:
        """Tokens that fit."""
        return self._capacity


class PathCache(Cache):
    """A cache of transformers for one path, with room for its longest prefix and a row after it."""

    def __init__(self, capacity: int) -> None:
        super().__init__(layer_class_to_replicate=partial(PathLayer, capacity))  # pyright: ignore[reportArgumentType]

    def settle(self, kept: int, moved: Tensor) -> None:
        """See `PathLayer.settle`."""
        in_place = len(moved) > 0 and kept == self.get_seq_length() and bool((moved == torch.arange(len(moved))).all())
        for layer in self.layers:
            assert isinstance(layer, PathLayer)
            if in_place:
                layer.length = kept + len(moved)
            else:
                layer.settle(kept, moved)
