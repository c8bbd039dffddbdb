"""What every trainer's log says about the noise, and what no trainer may end without."""

import torch

from neftune.errors import NoiseError
from neftune.noise.handle import NoiseHandle
from neftune.noise.meter import Totals
from neftune.noise.parallel import summed_over_ranks


class NoiseLog:
    """Realised noise for a trainer's log, from one log to the next.

    Args:
        handle: The noise on the model; what its meter holds already counts as logged.
        num_replicas: How many ranks noise the very same tokens.
    """

    def __init__(self, handle: NoiseHandle, *, num_replicas: int = 1) -> None:
        self._handle = handle
        self._num_replicas = num_replicas
        self._logged = handle.meter.totals()

    def take(self, device: torch.device) -> dict[str, float]:
        """What to log now, or nothing where no document was noised since the last time. Every rank must ask.

        Args:
            device: One that the ranks' backend can send from.

        Returns:
            ``noise_alpha`` and ``noise_to_embedding`` since the last log, ``noise_documents`` and ``noise_tokens`` so
            far, ``noise_alpha_asked`` of the last step.
        """
        totals = self._handle.meter.totals()
        recent, self._logged = totals.since(self._logged), totals
        recent, totals = (self._over_ranks(part, device) for part in (recent, totals))
        if not recent.num_documents:
            return {}
        return {
            "noise_alpha": recent.alpha_mean,
            "noise_to_embedding": recent.noise_to_embedding,
            "noise_documents": int(totals.num_documents),
            "noise_tokens": int(totals.num_tokens),
            "noise_alpha_asked": self._handle.alpha,
        }

    def _over_ranks(self, totals: Totals, device: torch.device) -> Totals:
        """The whole batch's totals."""
        sums = summed_over_ranks([getattr(totals, name) for name in Totals.__slots__], device)
        return Totals(*(value / self._num_replicas for value in sums))


def refuse_unreached(handle: NoiseHandle, num_steps: int) -> None:
    """Refuse a training whose steps the noise has never reached; waits for the device.

    Args:
        handle: The noise.
        num_steps: Steps trained so far.

    Raises:
        NoiseError: There were steps, and no document was noised in them.
    """
    alpha = handle.settings.alpha
    if alpha and num_steps and not handle.meter.totals().num_documents:
        positions = handle.settings.positions
        remedy = (
            "Check that the trainer runs this model in training mode (model.train()), by calling it."
            if positions == "all"
            else f'No token of a {positions} was found: labels are -100 at the prompt alone. Use positions="all".'
        )
        raise NoiseError(
            f"noise of alpha={alpha} must reach the model, got {num_steps} training steps and 0 documents "
            f"noised. {remedy}"
        )
