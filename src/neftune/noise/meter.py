"""What noise the model really received, summed up on its device and read on demand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neftune.errors import NoiseError
from neftune.noise.add import Squares
from neftune.noise.documents import Layout
from neftune.records import RealisedNoise


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over what was noised so far.

    Attributes:
        alpha_sum: Realised alphas of all documents.
        noise_squared: Squared noise over all cells.
        embedding_squared: Squared clean embeddings over the same cells.
        num_documents: Documents noised, at every exposure.
        num_tokens: Tokens noised.
    """

    alpha_sum: float = 0.0
    noise_squared: float = 0.0
    embedding_squared: float = 0.0
    num_documents: float = 0.0
    num_tokens: float = 0.0

    def since(self, earlier: "Totals") -> "Totals":
        """What came on top of an earlier state."""
        return Totals(*(getattr(self, name) - getattr(earlier, name) for name in self.__slots__))

    @property
    def alpha_mean(self) -> float:
        """Mean realised alpha over documents; NaN without any."""
        return self.alpha_sum / self.num_documents if self.num_documents else math.nan

    @property
    def noise_to_embedding(self) -> float:
        """RMS(noise) / RMS(clean embedding); NaN without any."""
        return math.sqrt(self.noise_squared / self.embedding_squared) if self.embedding_squared else math.nan


class Meter:
    """Running totals per device. Recording never waits for the device; reading does."""

    def __init__(self) -> None:
        self.num_forwards = 0
        self._sums: dict[torch.device, Tensor] = {}
        self._least: dict[torch.device, Tensor] = {}
        self._most: dict[torch.device, Tensor] = {}

    @torch.no_grad()
    def record(self, squares: Squares, layout: Layout, noised: Tensor, *, unit_norm: float) -> None:
        """Add one noised batch.

        A document's realised alpha is the one that noise of its RMS, over its noised tokens, stands for.

        Args:
            squares: Squared norms of noise and clean embedding, per token (B * T,).
            layout: Documents of the batch.
            noised: Which tokens got noise, bool (B * T,).
            unit_norm: Expected L2 norm of a document's noise at alpha = 1, the module's own factor included.
        """
        if not noised.numel():
            return
        document, counts = layout.document.flatten(), torch.zeros_like(layout.lengths)
        counts.index_add_(0, document, noised.to(counts.dtype))
        per_document = torch.zeros_like(counts, dtype=torch.float32).index_add_(0, document, squares.noise)
        present = counts > 0
        alphas = (per_document * layout.lengths / counts.clamp(min=1)).sqrt() / unit_norm
        sums = (alphas.sum(), squares.noise.sum(), squares.signal.sum(), present.sum(), counts.sum())
        self._accumulate(torch.stack([value.to(torch.float64) for value in sums]), alphas, present)

    def _accumulate(self, sums: Tensor, alphas: Tensor, present: Tensor) -> None:
        device = sums.device
        least = torch.where(present, alphas, math.inf).min()
        most = alphas.max()
        if device not in self._sums:
            self._sums[device], self._least[device], self._most[device] = sums, least, most
            return
        self._sums[device] += sums
        self._least[device] = torch.minimum(self._least[device], least)
        self._most[device] = torch.maximum(self._most[device], most)

    def totals(self) -> Totals:
        """Everything recorded so far; waits for the device."""
        parts: list[list[float]] = [[float(value) for value in sums.cpu()] for sums in self._sums.values()]
        return Totals(*(math.fsum(column) for column in zip(*parts, strict=True))) if parts else Totals()

    def realised(self) -> RealisedNoise:
        """The record of everything noised so far; waits for the device.

        Raises:
            NoiseError: Nothing was noised yet.
        """
        totals = self.totals()
        if not totals.num_documents:
            raise NoiseError(
                f"there is no realised noise to read: {self.num_forwards} training forwards, 0 documents noised. "
                "Run the attached model in training mode, with gradients on, before reading."
            )
        return RealisedNoise(
            alpha_mean=totals.alpha_mean,
            alpha_min=min(float(value) for value in self._least.values()),
            alpha_max=max(float(value) for value in self._most.values()),
            noise_to_embedding=totals.noise_to_embedding,
            num_documents=int(totals.num_documents),
            num_tokens=int(totals.num_tokens),
            num_forwards=self.num_forwards,
        )

    def state(self) -> dict[str, Any]:
        """Everything recorded so far as plain data, exact to the bit; waits for the device."""
        devices = {
            str(device): {
                "sums": [float(value) for value in sums.cpu()],
                "least": float(self._least[device]),
                "most": float(self._most[device]),
            }
            for device, sums in self._sums.items()
        }
        return {"num_forwards": self.num_forwards, "devices": devices}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, as if the recording had never been interrupted."""
        self.num_forwards = state["num_forwards"]
        for name, values in state["devices"].items():
            device = torch.device(name)
            self._sums[device] = torch.tensor(values["sums"], dtype=torch.float64, device=device)
            self._least[device] = torch.tensor(values["least"], dtype=torch.float32, device=device)
            self._most[device] = torch.tensor(values["most"], dtype=torch.float32, device=device)

    @classmethod
    def of_ranks(cls, states: Sequence[Mapping[str, Any]]) -> "Meter":
        """What the ranks of one training recorded together, on the CPU.

        Args:
            states: What `state` gave on each of them.
        """
        joined = cls()
        for state in states:
            joined.num_forwards += state["num_forwards"]
            for values in state["devices"].values():
                joined._accumulate(
                    torch.tensor(values["sums"], dtype=torch.float64),
                    alphas=torch.tensor([values["least"], values["most"]]),
                    present=torch.tensor([True, True]),
                )
        return joined
