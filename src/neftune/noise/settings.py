"""What noise is asked for, checked once."""

import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from neftune.errors import ConfigError
from neftune.noise.distributions import Distribution, distributions

Match = Literal["rms", "paper"]


@dataclass(frozen=True, slots=True)
class NoiseSettings:
    """The noise that is asked for.

    Attributes:
        alpha: The paper's scale, >= 0; 0 is the baseline.
        distribution: A registered distribution.
        match: "rms" brings every distribution to the uniform's RMS, "paper" uses it unscaled.
        seed: Chooses the stream of noise; modulo 2**64.

    Raises:
        ConfigError: A value outside its range.
        UnknownNameError: No such distribution.
    """

    alpha: float
    distribution: str = "uniform"
    match: Match = "rms"
    seed: int = 0

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        self.entry.unit(self.match)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"noise seed must be an integer, got {self.seed!r}. Use any whole number.")

    @property
    def entry(self) -> Distribution:
        """The distribution itself."""
        return distributions[self.distribution]

    @property
    def unit_norm(self) -> float:
        """Expected L2 norm of a document's noise at alpha = 1: 1/sqrt(3) for the uniform."""
        return self.entry.unit(self.match) * self.entry.std

    def scale(self, lengths: Tensor, width: int, *, multiplier: float = 1.0) -> Tensor:
        """What a document's random numbers are multiplied with: m alpha / sqrt(L d), and 0 where L is 0.

        Args:
            lengths: True lengths L in tokens, integers.
            width: d.
            multiplier: m, the factor that the embedding module itself applies.

        Returns:
            float32 of the shape of ``lengths``; computed in float64 and rounded once.
        """
        numerator = self.alpha * self.entry.unit(self.match) * multiplier
        cells = (lengths * width).to(torch.float64)
        return torch.where(lengths > 0, numerator / cells.clamp(min=1.0).sqrt(), 0.0).to(torch.float32)


def check_alpha(alpha: Any) -> float:
    """``alpha`` as a float.

    Raises:
        ConfigError: It is not a finite number of at least 0.
    """
    is_number = not isinstance(alpha, bool) and isinstance(alpha, numbers.Real)
    if not is_number or not math.isfinite(alpha) or alpha < 0:
        raise ConfigError(
            f"noise alpha must be a finite number >= 0, got {alpha!r}. Use alpha=0 for the no-noise baseline; "
            "the paper uses 5, 10 and 15."
        )
    return float(alpha)
