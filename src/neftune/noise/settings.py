"""What noise is asked for, checked once."""

import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from neftune.errors import ConfigError
from neftune.noise.distributions import Distribution, distributions
from neftune.noise.schedules import Schedule, schedules

Match = Literal["rms", "paper"]
Positions = Literal["all", "prompt", "response"]


@dataclass(frozen=True, slots=True)
class NoiseSettings:
    """The noise that is asked for.

    Attributes:
        alpha: The paper's scale, >= 0; 0 is the baseline.
        distribution: A registered distribution.
        match: "rms" brings every distribution to the uniform's RMS, "paper" uses it unscaled.
        seed: Chooses the stream of noise; modulo 2**64.
        positions: "all" of a document's tokens (the paper), or those of its "prompt" (label -100) or "response" alone;
            L stays the whole document's, so a token gets the noise that it gets under "all".
        schedule: A registered schedule, or a function from progress in [0, 1] to a factor of alpha.

    Raises:
        ConfigError: A value outside its range.
        UnknownNameError: No such distribution or schedule.
    """

    alpha: float
    distribution: str = "uniform"
    match: Match = "rms"
    seed: int = 0
    positions: Positions = "all"
    schedule: str | Schedule = "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", check_alpha(self.alpha))
        self.entry.unit(self.match)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"noise seed must be an integer, got {self.seed!r}. Use any whole number.")
        if self.positions not in get_args(Positions):
            raise ConfigError(
                f'positions must be "all", "prompt" or "response", got {self.positions!r}. The paper noises "all".'
            )
        self.alpha_at(0.0)

    @property
    def entry(self) -> Distribution:
        """The distribution itself."""
        return distributions[self.distribution]

    @property
    def is_scheduled(self) -> bool:
        """Whether alpha changes over training."""
        return self.schedule != "constant"

    def alpha_at(self, progress: float) -> float:
        """Alpha after a share of training.

        Args:
            progress: Share of training done, in [0, 1].

        Raises:
            ConfigError: The schedule gives no finite factor >= 0.
        """
        schedule = self.schedule if callable(self.schedule) else schedules[self.schedule]
        factor: Any = schedule(progress)
        if not _is_factor(factor):
            raise ConfigError(
                f"a schedule must give a finite factor >= 0, got {factor!r} at progress {progress:g}. "
                f"Return a number, or use one of {', '.join(schedules)}."
            )
        return self.alpha * float(factor)

    @property
    def unit_norm(self) -> float:
        """Expected L2 norm of a document's noise at alpha = 1: 1/sqrt(3) for the uniform."""
        return self.entry.unit(self.match) * self.entry.std

    def scale(self, lengths: Tensor, width: int, *, alpha: float, multiplier: float = 1.0) -> Tensor:
        """What a document's random numbers are multiplied with: m alpha / sqrt(L d), and 0 where L is 0.

        Args:
            lengths: True lengths L in tokens, integers.
            width: d.
            alpha: The paper's scale at this moment.
            multiplier: m, the factor that the embedding module itself applies.

        Returns:
            float32 of the shape of ``lengths``; computed in float64 and rounded once.
        """
        numerator = alpha * self.entry.unit(self.match) * multiplier
        cells = (lengths * width).to(torch.float64)
        return torch.where(lengths > 0, numerator / cells.clamp(min=1.0).sqrt(), 0.0).to(torch.float32)


def _is_factor(value: Any) -> bool:
    is_number = not isinstance(value, bool) and isinstance(value, numbers.Real)
    return is_number and math.isfinite(float(value)) and float(value) >= 0


def check_alpha(alpha: Any) -> float:
    """``alpha`` as a float.

    Raises:
        ConfigError: It is not a finite number of at least 0.
    """
    if not _is_factor(alpha):
        raise ConfigError(
            f"noise alpha must be a finite number >= 0, got {alpha!r}. Use alpha=0 for the no-noise baseline; "
            "the paper uses 5, 10 and 15."
        )
    return float(alpha)
