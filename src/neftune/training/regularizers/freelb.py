"""FreeLB: embeddings are shifted against the model, and every shift on the way is trained on."""

import torch
from pydantic import Field
from torch import Tensor

from neftune.training.regularizers.base import LossAt, MicroBatch, Regularizer, regularizers


@regularizers.register("freelb")
class FreeLB(Regularizer):
    """K passes over a batch, its embeddings shifted a step up the loss in between; the gradient is the passes' mean.

    A document's shift starts at random (uniform, scaled by init / sqrt(L D), as the noise is) and moves by
    strength x gradient / |gradient|, both over the whole document. All passes have one dropout mask, as the paper asks,
    and one draw of the noise, so that only the shift changes between them.

    Source: Zhu et al., arXiv 1909.11764, algorithm 1; the authors' code (L2).
    """

    strength: float = Field(gt=0)
    """The step's L2 norm, over all of a document's embeddings."""
    steps: int = Field(default=3, ge=2)
    """K, passes over each batch; each but the last is followed by a step."""
    init: float = Field(default=0.0, ge=0)
    """Size of the random start, on the scale of the noise's alpha."""
    max_norm: float = Field(default=0.0, ge=0)
    """Largest L2 norm of a document's shift; 0 sets no bound."""

    def loss(self, batch: MicroBatch, loss_at: LossAt) -> Tensor:  # noqa: D102
        shift = (self.init * batch.uniform("freelb", per_token=False)).requires_grad_()
        earlier = torch.zeros((), device=shift.device)
        for _ in range(self.steps - 1):
            loss = loss_at(shift) / self.steps
            batch.backward(loss)
            earlier = earlier + loss.detach()
            assert shift.grad is not None
            shift = self._climbed(shift.detach(), shift.grad).requires_grad_()
        return loss_at(shift) / self.steps + earlier

    def _climbed(self, shift: Tensor, gradient: Tensor) -> Tensor:
        """The next shift (B, T, D), inside the bound."""
        # Losses are shares of the whole optimiser batch's, so gradients may be tiny: no floor but the smallest number.
        tiny = torch.finfo(torch.float32).tiny
        shift = shift + (self.strength * gradient.float() / _norms(gradient).clamp(min=tiny)).to(shift.dtype)
        if self.max_norm:
            shift = shift * (self.max_norm / _norms(shift).clamp(min=tiny)).clamp(max=1.0).to(shift.dtype)
        return shift


def _norms(rows: Tensor) -> Tensor:
    """Each document's L2 norm, (B, 1, 1)."""
    return rows.float().flatten(1).norm(dim=1)[:, None, None]
