"""The noise relative to what it disturbs: alpha does not carry over from model to model, this ratio does."""

import math
from typing import Any, cast

import torch
from torch import nn

from neftune.errors import ConfigError, NoiseError
from neftune.noise.settings import Match, NoiseSettings, check_alpha
from neftune.noise.stacks import Stack, find_stacks
from neftune.noise.tables import Embeddings, is_quantised

_ROWS = 1 << 14
"""Rows of a quantised table that are looked up at once."""

PAPERS_ALPHA = 5.0
"""The scale of a noise that names neither alpha nor nsr."""


def noise_to_signal(
    model: nn.Module,
    alpha: float,
    *,
    length: float,
    distribution: str = "uniform",
    match: Match = "rms",
    embeddings: Embeddings | None = None,
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
        embeddings: The token embedding, where the model does not tell it; of several the first is judged.

    Raises:
        ConfigError: A value is out of range.
        NoiseError: No token embedding is found, or its table is all zeros.
    """
    return check_alpha(alpha) * _ratio_per_alpha(find_stacks(model, embeddings)[0], length, distribution, match)


def alpha_for(
    model: nn.Module,
    *,
    nsr: float,
    length: float,
    distribution: str = "uniform",
    match: Match = "rms",
    embeddings: Embeddings | None = None,
) -> float:
    """The alpha whose `noise_to_signal` is ``nsr``.

    Args:
        model: A model with ``get_input_embeddings()``.
        nsr: RMS(noise) / RMS(embedding table), >= 0.
        length: Mean document length L in tokens, > 0.
        distribution: A registered distribution.
        match: "rms" or "paper", as in `attach`.
        embeddings: The token embedding, where the model does not tell it; of several the first is judged.

    Raises:
        ConfigError: A value is out of range.
        NoiseError: No token embedding is found, or its table is all zeros.
    """
    if not _is_positive(nsr) and nsr != 0:
        raise ConfigError(f"nsr must be a finite number >= 0, got {nsr!r}. Use nsr=0 for the no-noise baseline.")
    return nsr / _ratio_per_alpha(find_stacks(model, embeddings)[0], length, distribution, match)


def length_for(nsr: float, alpha: float, length: float | None) -> float:
    """The length that ``nsr`` needs.

    Raises:
        ConfigError: There is none, or an alpha is given as well.
    """
    if alpha != PAPERS_ALPHA:
        raise ConfigError(f"the noise is given as alpha or as nsr, got alpha={alpha!r} and nsr={nsr!r}. Give one.")
    if length is None:
        raise ConfigError(
            f"nsr={nsr!r} needs the mean document length in tokens, got none: alpha / sqrt(L d) depends on it. "
            "Pass length=..., or alpha."
        )
    return length


def _ratio_per_alpha(stack: Stack, length: float, distribution: str, match: Match) -> float:
    if not _is_positive(length):
        raise ConfigError(
            f"length must be a finite number of tokens > 0, got {length!r}. Use the mean document length."
        )
    unit_norm = NoiseSettings(1.0, distribution, match).unit_norm
    rms, width = _table(stack)
    if not _is_positive(rms):
        raise NoiseError(
            f"the embedding table must have a positive, finite RMS, got {rms}. "
            "Load trained weights before asking for a noise-to-signal ratio."
        )
    return unit_norm / math.sqrt(length * width) / rms


def _table(stack: Stack) -> tuple[float, int]:
    """RMS of a stack's table and its width d."""
    weight: Any = cast(Any, stack.embedding).weight
    if weight.ndim != 2:
        raise NoiseError(
            "the ratio needs the whole embedding table, 2-D; got a weight of shape "
            f"{list(weight.shape)}, as FSDP1 and ZeRO-3 leave it between forwards. Ask before wrapping, or "
            "inside FullyShardedDataParallel.summon_full_params or deepspeed.zero.GatheredParameters."
        )
    if not is_quantised(weight):
        return float(weight.detach().to(torch.float64).square().mean().sqrt()), weight.shape[1]
    num_rows = getattr(stack.embedding, "num_embeddings", weight.shape[0])
    total, count, width = 0.0, 0, 0
    for start in range(0, num_rows, _ROWS):
        with torch.no_grad():
            ids = torch.arange(start, min(start + _ROWS, num_rows), device=weight.device)
            rows = stack.embedding(ids).to(torch.float64) / stack.multiplier
        total, count, width = total + float(rows.square().sum()), count + rows.numel(), rows.shape[-1]
    return math.sqrt(total / count), width


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
