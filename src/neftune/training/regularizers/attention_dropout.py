"""Dropout on attention weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from pydantic import Field
from torch import nn

from neftune.training.regularizers.base import Regularizer, regularizers
from neftune.training.regularizers.places import attention_rates, require_effect


@regularizers.register("attention_dropout")
class AttentionDropout(Regularizer):
    """Attention weights are dropped at this rate: the model's own setting of it, for as long as it trains.

    Source: Vaswani et al., arXiv 1706.03762; transformers' `attention_dropout`.
    """

    strength: float = Field(gt=0, lt=1)
    """The rate (usual: 0.1)."""

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:  # noqa: D102
        at_rate = partial(attention_rates, model)
        require_effect(model, "attention_dropout", at_rate)
        with at_rate(self.strength):
            yield
