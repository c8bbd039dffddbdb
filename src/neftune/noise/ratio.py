"""The noise relative to what it disturbs: alpha does not carry over from model to model, this ratio does."""

import math
from typing import Any

import torch
from torch import nn

from neftune.errors import ConfigError, NoiseError
from neftune.noise.settings import Match, NoiseSettings, check_alpha
from neftune.noise.stacks import find_stacks


def noise_to_signal(
    model: nn.Module, alpha: float, *, length: float, distribution: str = "uniform", match: Match = "rms"
) -> float:
    """RMS(noise) / RMS(embedding table): for the uniform, alpha / sqrt(3 L d) over the RMS of the table.

    A multiplier inside the embedding module acts on both and cancels. An encoder-decoder is judged by its encoder.
    Over documents of several lengths the pooled ratio is that of their mean length, exactly.

    Args:
        model: A model with ``get_input_embeddings()``.
        alpha: The paper's scale, >= 0.
        length: Mean document length L in tokens, > 0.
        distribution: A registered distribution.
        match: "rms" or "paper", as in `attach`.

    Raises:
        ConfigError: A value is out of range.
        NoiseError: No token embedding is found, or its table is all zeros.
    """
    return check_alpha(alpha) * _ratio_per_alpha(model, length, distribution, match)


def alpha_for(
    model: nn.Module, *, nsr: float, length: float, distribution: str = "uniform", match: Match = "rms"
) -> float:
    """The alpha whose `noise_to_signal` is ``nsr``.

    Args:
        model: A model with ``get_input_embeddings()``.
        nsr: RMS(noise) / RMS(embedding table), >= 0.
        length: Mean document length L in tokens, > 0.
        distribution: A registered distribution.
        match: "rms" or "paper", as in `attach`.

    Raises:
        ConfigError: A value is out of range.
        NoiseError: No token embedding is found, or its table is all zeros.
    """
    if not _is_positive(nsr) and nsr != 0:
        raise ConfigError(f"nsr must be a finite number >= 0, got {nsr!r}. Use nsr=0 for the no-noise baseline.")
    return nsr / _ratio_per_alpha(model, length, distribution, match)


def _ratio_per_alpha(model: nn.Module, length: float, distribution: str, match: Match) -> float:
    if not _is_positive(length):
        raise ConfigError(
            f"length must be a finite number of tokens > 0, got {length!r}. Use the mean document length."
        )
    unit_norm = NoiseSettings(1.0, distribution, match).unit_norm
    embedding: Any = find_stacks(model)[0].embedding
    if embedding.weight.ndim != 2:
        raise NoiseError(
            "the ratio needs the whole embedding table, 2-D; got a weight of shape "
            f"{list(embedding.weight.shape)}, as FSDP1 and ZeRO-3 leave it between forwards. Ask before wrapping, or "
            "inside FullyShardedDataParallel.summon_full_params or deepspeed.zero.GatheredParameters."
        )
    rms = float(embedding.weight.detach().to(torch.float64).square().mean().sqrt())
    if not _is_positive(rms):
        raise NoiseError(
            f"the embedding table must have a positive, finite RMS, got {rms}. "
            "Load trained weights before asking for a noise-to-signal ratio."
        )
    return unit_norm / math.sqrt(length * embedding.weight.shape[1]) / rms


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
