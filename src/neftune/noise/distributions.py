"""What the noise is drawn from: each entry turns random bits into one number a channel.

Every entry works in integers and ends in one exact conversion, so that all devices agree bit for bit.
To add one, write a function from words to numbers and register it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from neftune.errors import ConfigError
from neftune.registry import Registry

UNIFORM_STD = 3**-0.5
"""Standard deviation of U(-1, 1), the paper's noise."""

_WORD_BITS = 32
_WORDS_PER_BLOCK = 4


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution with mean zero.

    Attributes:
        std: Standard deviation of one number.
        bits: Random bits a number takes: 16, the halves of a word, low one first, or 32.
        fraction_bits: A number is what ``numbers`` gives times 2**-fraction_bits.
        numbers: From words (int32, any bits) to numbers that float32 holds exactly, one per ``bits`` of them.
        on_sphere: Whether a token's numbers are scaled to the norm sqrt(d): a direction of fixed length.
        paired: Whether draws 2k and 2k + 1 are each other's mirror image.
    """

    std: float
    bits: Literal[16, 32]
    fraction_bits: int
    numbers: Callable[[Tensor], Tensor]
    on_sphere: bool = False
    paired: bool = False

    def num_blocks(self, width: int) -> int:
        """Philox counters that a token of ``width`` channels takes."""
        per_block = _WORDS_PER_BLOCK * _WORD_BITS // self.bits
        return -(-width // per_block)

    def sample(self, words: Tensor, scale: Tensor, *, width: int) -> Tensor:
        """Numbers times each token's scale.

        Args:
            words: int32 (tokens, 4 * num_blocks(width)).
            scale: float32 (tokens,).
            width: Channels d.

        Returns:
            float32 (tokens, width): an exact number and one rounded product each.
        """
        numbers = self.numbers(words)[:, :width]
        if self.on_sphere:
            factor = sphere_factor(numbers.to(torch.int64).square().sum(dim=1), scale, width=width)
        else:
            factor = scale * 2.0**-self.fraction_bits
        return numbers.mul_(factor[:, None])

    def unit(self, match: str) -> float:
        """What a number is multiplied with: 1 as in the paper, or what brings its RMS to the uniform's.

        Raises:
            ConfigError: ``match`` is neither "rms" nor "paper".
        """
        if match not in ("rms", "paper"):
            raise ConfigError(f'match must be "rms" or "paper", got {match!r}. Use "rms" to compare at equal RMS.')
        return 1.0 if match == "paper" else UNIFORM_STD / self.std


distributions: Registry[Distribution] = Registry("distribution")


def sphere_factor(squares: Tensor, scale: Tensor, *, width: int) -> Tensor:
    """What brings whole numbers to the norm sqrt(d), times each token's scale.

    Args:
        squares: Sum of each token's squared numbers, int64 (tokens,).
        scale: float32 (tokens,).
        width: Channels d.

    Returns:
        float32 (tokens,), the same on every device: float64's division and root are exact to the last bit everywhere.
    """
    squares = squares.clamp(min=1).to(torch.float64)
    return (scale.to(torch.float64) * (width / squares).sqrt()).to(torch.float32)


def _uniform(words: Tensor) -> Tensor:
    """The 2**16 midpoints of equal cells of (-1, 1), in units of 2**-15: their mean is exactly 0."""
    return words.view(torch.int16).to(torch.float32).add_(0.5)


def _bernoulli(words: Tensor) -> Tensor:
    """-1 or 1: the sign of each half word."""
    return (words.view(torch.int16) >> 15).to(torch.float32).mul_(2).add_(1)


_GAUSSIAN_BITS = 21
_CELL_BITS = 7
_WEIGHT_BITS = 16
_MANTISSA_BITS = 52
_SMALLEST_EXPONENT = 1023 - 1


@cache
def quantile_table(device: torch.device) -> Tensor:
    """Upper normal quantiles in units of 2**-21 at tail probabilities v / 2**32, v = 2**e (1 + j / 128), e from -1."""
    cells = 1 << _CELL_BITS
    points = [2.0**exponent * (1 + j / cells) for exponent in range(-1, 31) for j in range(cells)]
    normal = NormalDist()
    tail = [-normal.inv_cdf(point / 2**32) for point in (*points, 2.0**31)]
    return torch.tensor([round(value * 2**_GAUSSIAN_BITS) for value in tail], dtype=torch.int64, device=device)


def _gaussian(words: Tensor) -> Tensor:
    """The normal quantile, linear between 4,097 points that lie denser towards the tail; off by less than 1e-5.

    The sign is the word's own; its other 31 bits choose the size. The bits of v as a float64 are the index: exponent
    and 7 bits of mantissa name the cell, the next 16 the place inside it. No logarithm: those differ between devices.
    """
    size = (words & 0x7FFFFFFF).to(torch.float64) + 0.5
    bits = size.view(torch.int64)
    cell = (bits >> (_MANTISSA_BITS - _CELL_BITS)) - (_SMALLEST_EXPONENT << _CELL_BITS)
    weight = (bits >> (_MANTISSA_BITS - _CELL_BITS - _WEIGHT_BITS)) & ((1 << _WEIGHT_BITS) - 1)
    table = quantile_table(words.device)
    left = table[cell]
    quantile = left + (((table[cell + 1] - left) * weight) >> _WEIGHT_BITS)
    return torch.where(words < 0, -quantile, quantile).to(torch.float32)


distributions.register("uniform")(Distribution(UNIFORM_STD, 16, 15, _uniform))
distributions.register("gaussian")(Distribution(1.0, 32, _GAUSSIAN_BITS, _gaussian))
distributions.register("bernoulli")(Distribution(1.0, 16, 0, _bernoulli, paired=True))
distributions.register("sphere")(Distribution(1.0, 32, _GAUSSIAN_BITS, _gaussian, on_sphere=True))
