"""NoisyTune: the pretrained weights are perturbed once."""

import torch
from pydantic import Field
from torch import nn

from neftune.config import ModelConfig, TrainConfig
from neftune.errors import ConfigError
from neftune.training.regularizers.base import Regularizer, regularizers


@regularizers.register("noisytune")
class NoisyTune(Regularizer):
    """Before the first step, U(-s/2, s/2) x the standard deviation of its matrix is added to every trained weight.

    A parameter whose numbers are all equal (a fresh norm) has no deviation and stays. Parts that are frozen stay: what
    cannot be trained would keep its perturbation.

    Source: Wu et al., arXiv 2202.12024, equation 1.
    """

    strength: float = Field(gt=0)
    """The paper's lambda (0.15)."""

    def check(self, train: TrainConfig, model: ModelConfig) -> None:  # noqa: D102
        if model.adapter != "none":
            raise ConfigError(
                "train.regularizers.noisytune perturbs pretrained weights that are then trained; with model.adapter "
                f"{model.adapter!r} none of them is. Set model.adapter to none, or noisytune to 0."
            )

    @torch.no_grad()
    def prepare(self, model: nn.Module, generator: torch.Generator) -> None:  # noqa: D102
        for parameter in model.parameters():
            if not parameter.requires_grad or parameter.numel() < 2:
                continue
            drawn = torch.rand(parameter.shape, generator=generator).to(parameter.device) - 0.5
            parameter += (self.strength * drawn * parameter.float().std()).to(parameter.dtype)
