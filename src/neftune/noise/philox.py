"""Philox4x32-10: random bits as a function of a counter and a key, with no state.

`philox` is the oracle: plain torch arithmetic that runs alike on every device. `random_words` is what the
noise calls; on the CPU it takes the same function in numpy, three times as fast and equal bit for bit.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011); Random123's
known answer for counter 0 and key 0 is 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
"""

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF

_CHUNK_TOKENS = 1024
_CHUNK_BLOCKS = 16384
"""Counters worked on at once: what keeps numpy's four buffers inside a second-level cache."""


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four 32-bit words that belong to each counter under each key.

    Args:
        counter: Four int64 tensors of values in [0, 2**32) that broadcast against each other.
        key: Two such tensors.

    Returns:
        Four int64 tensors of values in [0, 2**32) of the broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # A product of two 32-bit numbers wraps around in int64, yet keeps all of its 64 bits.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _LOW) ^ c1 ^ k0,
            product1 & _LOW,
            ((product0 >> 32) & _LOW) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & _LOW, (k1 + WEYL[1]) & _LOW
    return c0, c1, c2, c3


def random_words(keys: Tensor, positions: Tensor, *, width: int, draw: int) -> Tensor:
    """One random 32-bit word per token and channel.

    Channel c takes word c % 4 of the counter (position, c // 4, draw modulo 2**32, draw // 2**32).

    Args:
        keys: int64 of shape (tokens,), any bits: the document's key.
        positions: int64 of shape (tokens,) in [0, 2**32): the token's position in its document.
        width: Number of channels.
        draw: The exposure, in [0, 2**64).

    Returns:
        int32 of shape (tokens, width), the words' bits.
    """
    num_blocks = -(-width // 4)
    make = _words_numpy if keys.device.type == "cpu" else _words_torch
    return make(keys, positions, num_blocks, draw)[:, :width]


class _Buffers(threading.local):
    """numpy's four working arrays, kept per thread: fresh memory for every step costs more than the arithmetic."""

    def __init__(self) -> None:
        self._arrays: NDArray[np.uint64] | None = None

    def get(self) -> NDArray[np.uint64]:
        if self._arrays is None:
            self._arrays = np.empty((4, 2 * _CHUNK_BLOCKS), np.uint64)
        return self._arrays


_buffers = _Buffers()


def _words_torch(keys: Tensor, positions: Tensor, num_blocks: int, draw: int) -> Tensor:
    blocks = torch.arange(num_blocks, device=keys.device)
    low, high = (torch.full((), part, dtype=torch.int64, device=keys.device) for part in (draw & _LOW, draw >> 32))
    key = ((keys & _LOW)[:, None], ((keys >> 32) & _LOW)[:, None])
    words = torch.stack(philox((positions[:, None], blocks, low, high), key), dim=-1)
    return words.to(torch.int32).view(keys.numel(), 4 * num_blocks)


def _words_numpy(keys: Tensor, positions: Tensor, num_blocks: int, draw: int) -> Tensor:
    key_bits, position_bits = keys.numpy().view(np.uint64), positions.numpy().view(np.uint64)
    words = np.empty((keys.numel(), num_blocks, 4), np.uint32)
    tokens = min(max(1, keys.numel()), _CHUNK_TOKENS)
    blocks = max(1, _CHUNK_BLOCKS // tokens)
    buffers = _buffers.get()
    for i in range(0, keys.numel(), tokens):
        rows = slice(i, i + tokens)
        round_keys = _round_keys(key_bits[rows])
        for j in range(0, num_blocks, blocks):
            shape = (2, min(blocks, num_blocks - j), round_keys.shape[-1])
            work = [buffer[: shape[0] * shape[1] * shape[2]].reshape(shape) for buffer in buffers]
            work[0][0], work[0][1] = position_bits[rows], draw & _LOW
            work[1][0], work[1][1] = np.arange(j, j + shape[1], dtype=np.uint64)[:, None], draw >> 32
            even, odd = _rounds_numpy(work, round_keys)
            out = words[rows, j : j + shape[1]]
            out[..., 0], out[..., 1], out[..., 2], out[..., 3] = even[0].T, odd[0].T, even[1].T, odd[1].T
    return torch.from_numpy(words.view(np.int32)).view(keys.numel(), 4 * num_blocks)  # pyright: ignore[reportUnknownMemberType]


def _round_keys(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Both key words of every round, shape (rounds, 2, 1, tokens)."""
    weyl = np.array(WEYL, np.uint64)[:, None] * np.arange(ROUNDS, dtype=np.uint64)[:, None, None]
    halves = np.stack((keys & np.uint64(_LOW), keys >> np.uint64(32)))
    return ((halves + weyl) & np.uint64(_LOW))[:, :, None, :]


def _rounds_numpy(work: list[NDArray[np.uint64]], round_keys: NDArray[np.uint64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """All rounds on words (0, 2) and (1, 3), each pair as one array whose first axis is the pair."""
    even, odd, product, low = work
    multipliers = np.array(MULTIPLIERS, np.uint64)[:, None, None]
    for round_key in round_keys:
        np.multiply(even, multipliers, out=product)
        np.bitwise_and(product, np.uint64(_LOW), out=low)
        np.right_shift(product, np.uint64(32), out=product)
        np.bitwise_xor(product[::-1], odd, out=even)
        np.bitwise_xor(even, round_key, out=even)
        odd, low = low[::-1], odd
    return even, odd
