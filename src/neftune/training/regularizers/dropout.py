"""Dropout on embeddings and on the residual stream."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pydantic import Field
from torch import nn

from neftune.training.regularizers.base import Regularizer, regularizers
from neftune.training.regularizers.places import hooked, require_effect, residual_rates


@regularizers.register("dropout")
class Dropout(Regularizer):
    """Numbers of embeddings and of what each layer adds to the residual stream are dropped, at this rate.

    Where a model has dropout of its own outside attention (GPT-2, OPT), that gets this rate; where it has none (Llama
    and its kin), hooks drop the first layer's input, behind the noise, and the output of every attention and MLP.
    Adapters keep their own dropout. It draws from torch's generator, which data order and noise do not read.

    Source: Srivastava et al., JMLR 15 (2014); the places are those of Vaswani et al., arXiv 1706.03762, section 5.4.
    """

    strength: float = Field(gt=0, lt=1)
    """The rate (usual: 0.1)."""

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:  # noqa: D102
        with residual_rates(model, self.strength) as count:
            has_own = bool(count)

        def at_rate(rate: float) -> AbstractContextManager[int]:
            return residual_rates(model, rate) if has_own else hooked(model, rate)

        require_effect(model, "dropout", at_rate)
        with at_rate(self.strength):
            yield
