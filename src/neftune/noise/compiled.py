"""The noise on the CPU, compiled by numba: the words of Philox, and the sum in one pass over the embeddings.

Equal bit for bit to the oracle and to `neftune.noise.add.add_` in torch. Imported only where numba is installed.

# N tokens of the flattened batch, D width
"""

from collections.abc import Callable
from typing import Any

import numba  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neftune.noise.add import Squares
from neftune.noise.distributions import distributions
from neftune.noise.philox import MULTIPLIERS, ROUNDS, WEYL
from neftune.noise.tokens import TokenNoise

_ROUNDS = ROUNDS
_M0, _M1 = (np.uint64(multiplier) for multiplier in MULTIPLIERS)
_W0, _W1 = (np.uint32(step) for step in WEYL)
_HALF = np.uint64(32)
_MIDDLE = np.float32(0.5)
_LOW = 0xFFFFFFFF
_KINDS = {distributions["uniform"].numbers: 0, distributions["bernoulli"].numbers: 1}


def _compiled(*, fastmath: bool = False) -> Callable[[Callable[..., Any]], Any]:
    # The machine code is kept beside the source or in the user's cache; where neither can be written, in memory alone.
    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, fastmath=fastmath)(function)  # pyright: ignore
        except RuntimeError:
            return numba.njit(nogil=True, fastmath=fastmath)(function)  # pyright: ignore

    return compile_


@_compiled()
def _token_words(key: Any, position: Any, low: Any, high: Any, words: Any) -> None:
    first, second, position = np.uint32(key), np.uint32(key >> _HALF), np.uint32(position)
    for j in range(words.shape[1]):
        c0, c1, c2, c3, k0, k1 = position, np.uint32(j), low, high, first, second
        for _ in range(_ROUNDS):
            product0, product1 = np.uint64(c0) * _M0, np.uint64(c2) * _M1
            c0, c1 = np.uint32(product1 >> _HALF) ^ c1 ^ k0, np.uint32(product1)
            c2, c3 = np.uint32(product0 >> _HALF) ^ c3 ^ k1, np.uint32(product0)
            k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
        words[0, j], words[1, j], words[2, j], words[3, j] = c0, c1, c2, c3


@_compiled()
def _fill(keys: Any, positions: Any, low: Any, high: Any, words: Any) -> None:
    for i in range(words.shape[0]):
        _token_words(keys[i], positions[i], low, high, words[i])


@_compiled(fastmath=True)
def _squared_norm(row: Any) -> Any:
    # Summed in any order, so that vector units can; it is measured, not trained on.
    total = np.float32(0)
    for c in range(row.shape[0]):
        total += row[c] * row[c]
    return total


@_compiled()
def _add(  # noqa: PLR0913 (compiled code takes arrays one by one)
    keys: Any,
    positions: Any,
    noised: Any,
    low: Any,
    high: Any,
    factors: Any,
    kind: int,
    embeddings: Any,
    noise_squares: Any,
    signal_squares: Any,
) -> None:
    width = embeddings.shape[1]
    words, values = np.empty((4, (width + 7) // 8), np.uint32), np.empty(width, np.float32)
    halves = words.reshape(words.size).view(np.int16)
    for i in range(embeddings.shape[0]):
        if not noised[i]:
            continue
        _token_words(keys[i], positions[i], low, high, words)
        row, factor = embeddings[i], factors[i]
        if kind == 0:
            for c in range(width):
                values[c] = (np.float32(halves[c]) + _MIDDLE) * factor
        else:
            for c in range(width):
                values[c] = factor if halves[c] >= 0 else -factor
        noise_squares[i], signal_squares[i] = _squared_norm(values), _squared_norm(row)
        for c in range(width):
            row[c] += values[c]


def fill(keys: NDArray[np.uint64], positions: NDArray[np.uint64], draw: int, words: NDArray[np.uint32]) -> None:
    """`neftune.noise.philox.Fill`, compiled."""
    _fill(keys, positions, np.uint32(draw & _LOW), np.uint32(draw >> 32), words)


def supports(embeddings: Tensor, noise: TokenNoise) -> bool:
    """Whether the compiled sum adds this noise to these embeddings: float32 of memory in one piece."""
    is_plain = type(embeddings) is Tensor and embeddings.is_contiguous()
    return is_plain and embeddings.dtype == torch.float32 and noise.entry.numbers in _KINDS


def add_noise_(embeddings: Tensor, noise: TokenNoise) -> Squares:
    """`neftune.noise.add.add_` for what `supports` takes: one pass, no other memory than one token's."""
    squares = Squares(torch.zeros_like(noise.scale), torch.zeros_like(noise.scale))
    factors = noise.scale * 2.0**-noise.entry.fraction_bits
    arrays: list[Any] = [
        one.contiguous().numpy() for one in (noise.keys, noise.positions, noise.noised, factors, embeddings, *squares)
    ]
    keys, positions, noised, scaled, embedded, noise_squares, signal_squares = arrays
    _add(
        keys.view(np.uint64),
        positions.view(np.uint64),
        noised,
        np.uint32(noise.draw & _LOW),
        np.uint32(noise.draw >> 32),
        scaled,
        _KINDS[noise.entry.numbers],
        embedded,
        noise_squares,
        signal_squares,
    )
    return squares
