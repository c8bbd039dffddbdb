"""The noise onto any model, in one line."""

import torch.distributed as dist
from torch import nn

from neftune.noise.handle import NoiseHandle
from neftune.noise.ranks import Ranks
from neftune.noise.ratio import PAPERS_ALPHA, alpha_for, length_for
from neftune.noise.schedules import Schedule
from neftune.noise.sequence import SequenceShards
from neftune.noise.settings import Match, NoiseSettings, Positions
from neftune.noise.tables import Embeddings


def attach(  # noqa: PLR0913 (each is one property of the noise)
    model: nn.Module,
    alpha: float = PAPERS_ALPHA,
    *,
    distribution: str = "uniform",
    match: Match = "rms",
    positions: Positions = "all",
    schedule: str | Schedule = "constant",
    seed: int = 0,
    nsr: float | None = None,
    length: float | None = None,
    embeddings: Embeddings | None = None,
    sequence_group: "dist.ProcessGroup | None" = None,
    sequence_shards: SequenceShards | None = None,
) -> NoiseHandle:
    """The noise on every training forward of a model, until the handle is detached.

    A forward trains when the model is in training mode and gradients are on. Without a trainer that tells the epoch,
    each one draws new noise through a single integer of torch's CPU generator; at alpha = 0 it draws nothing, so that
    alpha = 0 equals no attachment bit for bit.

    Args:
        model: A model with ``get_input_embeddings()``, or any module whose embedding is named; wrapped (PEFT, data
            parallel, compiled) or not.
        alpha: The paper's scale, >= 0 (paper: 5, 10 or 15).
        distribution: A registered distribution.
        match: "rms" brings every distribution to the uniform's RMS, "paper" uses it unscaled.
        positions: "all" of a document's tokens (the paper), or those of its "prompt" (label -100) or "response" alone.
        schedule: A registered schedule, or a function from progress in [0, 1] to a factor of alpha; any but "constant"
            needs `NoiseHandle.set_progress` at every step.
        seed: Chooses the stream of noise.
        nsr: Instead of alpha, the noise-to-signal ratio RMS(noise) / RMS(embedding table); see `neftune.alpha_for`.
        length: Mean document length in tokens, which ``nsr`` needs.
        embeddings: The token embedding, or several, as modules of the model or by their dotted names.
        sequence_group: In context or sequence parallelism, the process group of the ranks that share each row.
        sequence_shards: How they do: "contiguous" (default), or "zigzag" as in torch's ``context_parallel``.

    Returns:
        The handle, also a context manager that detaches on exit.

    Raises:
        ConfigError: A setting is out of range, or transformers' own noise is on this model too.
        NoiseError: No token embedding is found, or the model carries noise already.

    Source: arXiv 2310.05914, algorithm 1.
    """
    if nsr is not None:
        length = length_for(nsr, alpha, length)
        alpha = alpha_for(model, nsr=nsr, length=length, distribution=distribution, match=match, embeddings=embeddings)
    settings = NoiseSettings(alpha, distribution, match, seed, positions, schedule)
    return NoiseHandle(model, settings, embeddings=embeddings, ranks=Ranks(sequence_group, sequence_shards))
