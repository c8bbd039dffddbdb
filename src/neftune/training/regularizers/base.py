"""What a regulariser is: settings, and up to four places where it touches a training.

# B documents, T positions, D width, N trained tokens of a micro-batch, V vocabulary
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neftune.config import Knobs, ModelConfig, Strength, TrainConfig
from neftune.noise.perturb import perturb
from neftune.recipe import validate
from neftune.registry import Registry
from neftune.training.randomness import stream_seed

LossAt = Callable[[Tensor | None], Tensor]
"""The micro-batch's loss with a shift (B, T, D) of its embeddings, None for none."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One micro-batch on its way to its loss.

    Attributes:
        input_ids: (B, T).
        attention_mask: (B, T), 0 at padding.
        width: D.
        dtype: Of the embeddings.
        step: Optimiser steps done.
        seed: The run's.
        backward: Adds a loss's gradients to the parameters'; the trainer does it for the loss that is returned.
    """

    input_ids: Tensor
    attention_mask: Tensor
    width: int
    dtype: torch.dtype
    step: int
    seed: int
    backward: Callable[[Tensor], None]

    def uniform(self, stream: str, *, per_token: bool = True) -> Tensor:
        """Random numbers in [-1, 1], (B, T, D), 0 at padding.

        A document has the same ones at a step however its batch is cut, and others at every step.

        Args:
            stream: What is drawn, apart from all else that is random in a run.
            per_token: False divides them by sqrt(L D), L the document's tokens, as the noise's are.
        """
        shape = (*self.input_ids.shape, self.width)
        drawn = perturb(
            torch.zeros(shape, dtype=torch.float32, device=self.input_ids.device),
            1.0,
            attention_mask=self.attention_mask,
            input_ids=self.input_ids,
            draw=self.step,
            seed=stream_seed(self.seed, stream),
        )
        lengths = self.attention_mask.sum(1)[:, None, None]
        return (drawn * (lengths * self.width).sqrt() if per_token else drawn).to(self.dtype)


@dataclass(frozen=True, slots=True)
class TrainedTokens:
    """What the model says at the tokens that are trained on.

    Attributes:
        log_probs: (N, V) in float32, with gradients.
        targets: The tokens that come next, (N,).
        again: The same tokens' log-probabilities (N, V) with a shift (B, T, D) of the embeddings: same noise, same
            dropout.
        batch: Where they stand.
    """

    log_probs: Tensor
    targets: Tensor
    again: Callable[[Tensor], Tensor]
    batch: MicroBatch


class Regularizer(Knobs):
    """Settings of one regulariser and what it does; by default nothing.

    The subclass's docstring begins with what it does in one line and names its source. Fields are its settings, each
    with its range; a recipe that gives a number gives `strength`.
    """

    strength: float
    """How strong it is; above 0, since 0 is its absence."""

    reads_tokens: ClassVar[bool] = False
    """Whether it has a penalty, which needs every trained token's distribution over the vocabulary."""

    def check(self, train: TrainConfig, model: ModelConfig) -> None:
        """Refuse, before anything is loaded, a run that it cannot stand in (ConfigError)."""

    def prepare(self, model: nn.Module, generator: torch.Generator) -> None:
        """Change the weights once, before the first step; not when a training is resumed."""

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Change the model for as long as it trains; afterwards it is as it was."""
        yield

    def penalty(self, tokens: TrainedTokens) -> Tensor | None:
        """What is added to each trained token's loss, (N,); None for nothing."""
        return None

    def loss(self, batch: MicroBatch, loss_at: LossAt) -> Tensor:
        """The micro-batch's loss, a scalar with gradients; ``loss_at(None)`` changes nothing."""
        return loss_at(None)


regularizers: Registry[type[Regularizer]] = Registry("regularizer")


def make_regularizers(asked: Mapping[str, Strength]) -> tuple[Regularizer, ...]:
    """The regularisers of ``train.regularizers``, by name.

    Raises:
        UnknownNameError: One is not registered.
        ConfigError: A setting that it does not have, or a value out of range.
    """
    made: list[Regularizer] = []
    for name, value in sorted(asked.items()):
        values: Mapping[str, Any] = value if isinstance(value, dict) else {"strength": value}
        made.append(validate(regularizers[name], values, source=f"train.regularizers.{name}"))
    return tuple(made)


def prepare_all(made: Sequence[Regularizer], model: nn.Module, *, seed: int) -> None:
    """Everything that changes the weights once, each from its own stream of the run's seed."""
    for one in made:
        generator = torch.Generator().manual_seed(stream_seed(seed, type(one).__name__))
        one.prepare(model, generator)
