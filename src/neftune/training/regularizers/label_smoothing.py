"""Label smoothing."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from neftune.training.regularizers.base import Regularizer, TrainedTokens, regularizers


@regularizers.register("label_smoothing")
class LabelSmoothing(Regularizer):
    """Targets are mixed with the uniform distribution: (1 - e) nll + e mean over the vocabulary of -log p.

    Source: Szegedy et al., arXiv 1512.00567, section 7; as transformers' LabelSmoother.
    """

    strength: float = Field(gt=0, lt=1)
    """e, the share of the uniform distribution (usual: 0.1)."""

    reads_tokens: ClassVar[bool] = True

    def penalty(self, tokens: TrainedTokens) -> Tensor:  # noqa: D102
        nll = -tokens.log_probs.gather(1, tokens.targets[:, None])[:, 0]
        return self.strength * (-tokens.log_probs.mean(1) - nll)
