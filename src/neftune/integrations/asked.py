"""The noise that a callback was asked for: checked at once, put on a model when training begins."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from neftune.noise.handle import NoiseHandle
from neftune.noise.parallel import on_several_ranks
from neftune.noise.ranks import Ranks
from neftune.noise.ratio import alpha_for, length_for
from neftune.noise.settings import NoiseSettings
from neftune.noise.tables import Embeddings


@dataclass(frozen=True, slots=True)
class AskedNoise:
    """A callback's arguments.

    Attributes:
        settings: What noise; its alpha means nothing where ``nsr`` is given.
        nsr: The noise-to-signal ratio that alpha is to follow from, on the model as its training begins.
        length: Mean document length in tokens, which ``nsr`` needs.
        embeddings: The token embeddings, where the model does not tell them.

    Raises:
        ConfigError: Both alpha and nsr are given, or nsr without a length.
    """

    settings: NoiseSettings
    nsr: float | None = None
    length: float | None = None
    embeddings: Embeddings | None = None

    def __post_init__(self) -> None:
        if self.nsr is not None:
            length_for(self.nsr, self.settings.alpha, self.length)

    @property
    def alpha(self) -> float | None:
        """The paper's scale; None where it follows from the model."""
        return self.settings.alpha if self.nsr is None else None

    def put_on(
        self,
        model: nn.Module,
        resumed: Mapping[str, Any],
        *,
        is_alive: Callable[[], bool] | None = None,
        ranks: Ranks | None = None,
    ) -> NoiseHandle:
        """The noise on a model.

        Args:
            model: The model.
            resumed: What `resumable` gave for the training that goes on; empty for one that begins.
            is_alive: Asked at each training forward; once it says no the noise detaches itself.
            ranks: How the ranks of the training share their batches, where they share rows.
        """
        settings = self.settings
        if self.nsr is not None:
            settings = dataclasses.replace(settings, alpha=resumed.get("alpha", self._alpha_on(model)))
        handle = NoiseHandle(model, settings, is_alive=is_alive, embeddings=self.embeddings, ranks=ranks)
        if "meter" in resumed:
            handle.meter.restore(resumed["meter"])
        return handle

    def _alpha_on(self, model: nn.Module) -> float:
        settings = self.settings
        assert self.nsr is not None
        return alpha_for(
            model,
            nsr=self.nsr,
            length=length_for(self.nsr, settings.alpha, self.length),
            distribution=settings.distribution,
            match=settings.match,
            embeddings=self.embeddings,
        )


def resumable(handle: NoiseHandle | None) -> dict[str, Any]:
    """What a checkpoint must hold for a training to go on as if never interrupted, as plain data."""
    if handle is None:
        return {}
    # One rank writes the checkpoint; its meter alone would pass for that of all.
    meter = {} if on_several_ranks() else {"meter": handle.meter.state()}
    return {"alpha": handle.settings.alpha} | meter
