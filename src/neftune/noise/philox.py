"""Philox4x32-10: random bits as a function of a counter and a key, with no state.

`philox` is the oracle: plain torch arithmetic that runs alike on every device. `random_words` is what the noise calls;
on the CPU it takes the same function compiled by numba (`compiled`) or, where numba is not installed, in numpy. All are
equal bit for bit.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011); Random123's
known answer for counter 0 and key 0 is 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF

Fill = Callable[[NDArray[np.uint64], NDArray[np.uint64], int, NDArray[np.uint32]], None]
"""Fills words (tokens, 4, blocks) from keys, positions and the draw."""


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


def random_words(keys: Tensor, positions: Tensor, *, num_blocks: int, draw: int) -> Tensor:
    """Random 32-bit words of every token, four per block.

    Word k is word k // num_blocks of Philox at the counter (position, k % num_blocks, draw modulo 2**32,
    draw // 2**32): neighbouring words come from neighbouring counters, which vector units make side by side.

    Args:
        keys: int64 of shape (tokens,), any bits: the document's key.
        positions: int64 of shape (tokens,) in [0, 2**32): the token's position in its document.
        num_blocks: Counters per token.
        draw: The exposure, in [0, 2**64).

    Returns:
        int32 of shape (tokens, 4 * num_blocks), the words' bits.
    """
    if keys.device.type != "cpu":
        return _words_torch(keys, positions, num_blocks, draw)
    words = np.empty((keys.numel(), 4, num_blocks), np.uint32)
    bits = [t.contiguous().numpy().view(np.uint64) for t in (keys, positions)]
    cpu_fill()(bits[0], bits[1], draw, words)
    return torch.from_numpy(words.view(np.int32)).view(keys.numel(), 4 * num_blocks)  # pyright: ignore[reportUnknownMemberType]


def _words_torch(keys: Tensor, positions: Tensor, num_blocks: int, draw: int) -> Tensor:
    blocks = torch.arange(num_blocks, device=keys.device)
    low, high = (torch.full((), part, dtype=torch.int64, device=keys.device) for part in (draw & _LOW, draw >> 32))
    key = ((keys & _LOW)[:, None], ((keys >> 32) & _LOW)[:, None])
    words = torch.cat(philox((positions[:, None], blocks, low, high), key), dim=1)
    return words.to(torch.int32)


@functools.cache
def cpu_fill() -> Fill:
    """The fastest way to fill words on this machine's CPU."""
    try:
        compiled: Any = importlib.import_module("neftune.noise.compiled")
    except ImportError:
        return fill_numpy
    return compiled.fill


def fill_numpy(keys: NDArray[np.uint64], positions: NDArray[np.uint64], draw: int, words: NDArray[np.uint32]) -> None:
    """`Fill` without a compiler: all rounds on words (0, 2) and (1, 3), each pair as one array."""
    shape = (2, words.shape[0], words.shape[2])
    even, odd, product, low = (np.empty(shape, np.uint64) for _ in range(4))
    even[0], even[1] = positions[:, None], draw & _LOW
    odd[0], odd[1] = np.arange(words.shape[2], dtype=np.uint64), draw >> 32
    round_keys = np.stack((keys & np.uint64(_LOW), keys >> np.uint64(32)))[:, :, None]
    multipliers, weyl = (np.array(pair, np.uint64)[:, None, None] for pair in (MULTIPLIERS, WEYL))
    for _ in range(ROUNDS):
        np.multiply(even, multipliers, out=product)
        np.bitwise_and(product, np.uint64(_LOW), out=low)
        np.right_shift(product, np.uint64(32), out=product)
        np.bitwise_xor(product[::-1], odd, out=even)
        np.bitwise_xor(even, round_keys, out=even)
        odd, low = low[::-1], odd
        round_keys = (round_keys + weyl) & np.uint64(_LOW)
    words[:, 0], words[:, 1], words[:, 2], words[:, 3] = even[0], odd[0], even[1], odd[1]
