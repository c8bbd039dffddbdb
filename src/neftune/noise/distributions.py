"""What the noise is drawn from: each entry turns 32 random bits into one number.

Every entry works in integers and ends in one exact conversion, so that all devices agree bit for bit.
To add one, write a function from words to integers and register it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

from neftune.errors import ConfigError
from neftune.registry import Registry

UNIFORM_STD = 3**-0.5
"""Standard deviation of U(-1, 1), the paper's noise."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution with mean zero.

    Attributes:
        std: Standard deviation of one number.
        fraction_bits: A number is its integer times 2**-fraction_bits.
        integers: From words (int32, any bits) to integers below 2**24 in size, which float32 holds exactly.
    """

    std: float
    fraction_bits: int
    integers: Callable[[Tensor], Tensor]

    def sample(self, words: Tensor) -> Tensor:
        """float32 numbers, one per word."""
        return self.integers(words).to(torch.float32) * 2.0**-self.fraction_bits

    def unit(self, match: str) -> float:
        """What a number is multiplied with: 1 as in the paper, or what brings its RMS to the uniform's.

        Raises:
            ConfigError: ``match`` is neither "rms" nor "paper".
        """
        if match not in ("rms", "paper"):
            raise ConfigError(f'match must be "rms" or "paper", got {match!r}. Use "rms" to compare at equal RMS.')
        return 1.0 if match == "paper" else UNIFORM_STD / self.std


distributions: Registry[Distribution] = Registry("distribution")


def _uniform_integers(words: Tensor) -> Tensor:
    return words >> 8


_GAUSSIAN_BITS = 21
_CELL_BITS = 7
_WEIGHT_BITS = 16
_MANTISSA_BITS = 52
_SMALLEST_EXPONENT = 1023 - 1


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Upper normal quantiles in units of 2**-21 at tail probabilities v / 2**32, v = 2**e (1 + j / 128), e from -1."""
    cells = 1 << _CELL_BITS
    points = [2.0**exponent * (1 + j / cells) for exponent in range(-1, 31) for j in range(cells)]
    normal = NormalDist()
    tail = [-normal.inv_cdf(point / 2**32) for point in (*points, 2.0**31)]
    return torch.tensor([round(value * 2**_GAUSSIAN_BITS) for value in tail], dtype=torch.int64, device=device)


def _gaussian_integers(words: Tensor) -> Tensor:
    """The normal quantile, linear between 4,097 points that lie denser towards the tail; off by less than 1e-5.

    The sign is the word's own; its other 31 bits choose the size. The bits of v as a float64 are the index: exponent
    and 7 bits of mantissa name the cell, the next 16 the place inside it. No logarithm: those differ between devices.
    """
    size = (words & 0x7FFFFFFF).to(torch.float64) + 0.5
    bits = size.view(torch.int64)
    cell = (bits >> (_MANTISSA_BITS - _CELL_BITS)) - (_SMALLEST_EXPONENT << _CELL_BITS)
    weight = (bits >> (_MANTISSA_BITS - _CELL_BITS - _WEIGHT_BITS)) & ((1 << _WEIGHT_BITS) - 1)
    table = _quantiles(words.device)
    left = table[cell]
    quantile = left + (((table[cell + 1] - left) * weight) >> _WEIGHT_BITS)
    return torch.where(words < 0, -quantile, quantile)


distributions.register("uniform")(Distribution(UNIFORM_STD, 23, _uniform_integers))
distributions.register("gaussian")(Distribution(1.0, _GAUSSIAN_BITS, _gaussian_integers))
