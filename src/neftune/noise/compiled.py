"""Philox on the CPU, compiled by numba: the oracle's words, bit for bit. Imported only where numba is installed."""

from collections.abc import Callable
from typing import Any

import numba  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from neftune.noise.philox import MULTIPLIERS, ROUNDS, WEYL

_ROUNDS = ROUNDS
_M0, _M1 = (np.uint64(multiplier) for multiplier in MULTIPLIERS)
_W0, _W1 = (np.uint32(step) for step in WEYL)
_HALF = np.uint64(32)


def _fill(keys: Any, positions: Any, low: Any, high: Any, words: Any) -> None:
    for i in range(words.shape[0]):
        first, second, position = np.uint32(keys[i]), np.uint32(keys[i] >> _HALF), np.uint32(positions[i])
        for j in range(words.shape[2]):
            c0, c1, c2, c3, k0, k1 = position, np.uint32(j), low, high, first, second
            for _ in range(_ROUNDS):
                product0, product1 = np.uint64(c0) * _M0, np.uint64(c2) * _M1
                c0, c1 = np.uint32(product1 >> _HALF) ^ c1 ^ k0, np.uint32(product1)
                c2, c3 = np.uint32(product0 >> _HALF) ^ c3 ^ k1, np.uint32(product0)
                k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
            words[i, 0, j], words[i, 1, j], words[i, 2, j], words[i, 3, j] = c0, c1, c2, c3


def _compile(function: Callable[..., None]) -> Callable[..., None]:
    # The machine code is kept beside the source or in the user's cache; where neither can be written, in memory alone.
    try:
        return numba.njit(nogil=True, cache=True)(function)  # pyright: ignore
    except RuntimeError:
        return numba.njit(nogil=True)(function)  # pyright: ignore


_fill_compiled = _compile(_fill)


def fill(keys: NDArray[np.uint64], positions: NDArray[np.uint64], draw: int, words: NDArray[np.uint32]) -> None:
    """`neftune.noise.philox.Fill`, compiled."""
    _fill_compiled(keys, positions, np.uint32(draw & 0xFFFFFFFF), np.uint32(draw >> 32), words)
