"""R3F: what the model says must not change when embeddings are shifted a little at random."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from neftune.training.regularizers.base import Regularizer, TrainedTokens, regularizers


@regularizers.register("r3f")
class R3F(Regularizer):
    """Each trained token pays strength x [KL(p || q) + KL(q || p)], q with embeddings shifted by U(-eps, eps).

    The second pass has the noise and the dropout masks of the first, so that p and q differ by the shift alone. (The
    authors' code draws dropout anew, which adds the penalty of R-Drop.) Gradients flow through both.

    Source: Aghajanyan et al., arXiv 2008.03156; fairseq's label_smoothed_cross_entropy_r3f, here per trained token.
    """

    strength: float = Field(gt=0)
    """The paper's lambda (its code's example: 1)."""
    eps: float = Field(default=1e-5, gt=0)
    """Largest shift of one number of an embedding (its code's example: 1e-5)."""

    reads_tokens: ClassVar[bool] = True

    def penalty(self, tokens: TrainedTokens) -> Tensor:  # noqa: D102
        plain, shifted = tokens.log_probs, tokens.again(self.eps * tokens.batch.uniform("r3f"))
        return self.strength * ((plain.exp() - shifted.exp()) * (plain - shifted)).sum(1)
