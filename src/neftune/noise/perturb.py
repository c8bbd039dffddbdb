"""The pure function: embeddings in, noised embeddings out.

# B rows, T positions in a row, D width
"""

import torch
from torch import Tensor

from neftune.errors import NoiseError
from neftune.noise.documents import Layout, document_keys, read_layout
from neftune.noise.hashing import mix, mix_int, signed
from neftune.noise.philox import random_words
from neftune.noise.settings import Match, NoiseSettings


def perturb(  # noqa: PLR0913 (the layout of a batch comes in these forms)
    embeddings: Tensor,
    alpha: float,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    input_ids: Tensor | None = None,
    document_keys: Tensor | None = None,
    draw: int | None = None,
    seed: int = 0,
    distribution: str = "uniform",
    match: Match = "rms",
) -> Tensor:
    """Embeddings plus alpha / sqrt(L d) times random numbers, where L is each document's own number of tokens.

    The same document, draw and seed give the same noise to the bit, whatever else shares the batch. The document is
    known by ``document_keys`` or ``input_ids``; without either, documents are told apart by their number in the batch.

    Args:
        embeddings: (B, T, D) or, for one flattened row, (T, D); any floating dtype.
        alpha: The paper's scale, >= 0.
        attention_mask: (B, T), 0 at padding, which gets exactly no noise.
        position_ids: (B, T) or (1, T), restarting with each document of a packed row.
        cu_seqlens: Boundaries of the documents in a single row.
        input_ids: Token ids (B, T); a document's key is the hash of its own.
        document_keys: Integers, one per row (B,) or one per token (B, T), instead of the hash.
        draw: The exposure (an epoch, a step); None takes one integer from torch's CPU generator, as dropout would.
        seed: Chooses the stream of noise.
        distribution: A registered distribution.
        match: "rms" brings it to the uniform's RMS, "paper" uses it unscaled.

    Returns:
        A tensor like ``embeddings``; the noise is a constant to autograd.

    Raises:
        ConfigError: A setting is out of range.
        NoiseError: The layout cannot be read from the given tensors.
    """
    settings = NoiseSettings(alpha, distribution, match, seed)
    if embeddings.ndim not in (2, 3) or not embeddings.is_floating_point():
        raise NoiseError(
            "embeddings must be floating point of shape (rows, positions, width) or (positions, width), "
            f"got {embeddings.dtype} of shape {list(embeddings.shape)}. Perturb the embeddings, not the token ids."
        )
    batch = embeddings if embeddings.ndim == 3 else embeddings[None]
    flat = [t[None] if t is not None and t.ndim == 1 else t for t in (attention_mask, position_ids, input_ids)]
    shape = (batch.shape[0], batch.shape[1])
    layout = read_layout(shape, batch.device, attention_mask=flat[0], position_ids=flat[1], cu_seqlens=cu_seqlens)
    keys = token_keys(layout, input_ids=flat[2], keys=document_keys)
    noise = make_noise(layout, keys, settings, width=batch.shape[-1], draw=new_draw(alpha) if draw is None else draw)
    return add_noise(batch, noise).view_as(embeddings)


def new_draw(alpha: float) -> int:
    """One integer from torch's CPU generator, so that seeding, restoring and checkpointing treat noise like dropout.

    At alpha = 0 none is taken, so that the baseline equals a model without noise bit for bit, dropout included.
    """
    return int(torch.randint(1 << 62, (), device="cpu")) if alpha else 0


def token_keys(layout: Layout, *, input_ids: Tensor | None, keys: Tensor | None) -> Tensor:
    """Every token's document key, int64 (B, T): the given ones, else a hash of the ids, else the document's number.

    Raises:
        NoiseError: The keys or ids have another shape than the batch.
    """
    shape = tuple(layout.real.shape)
    if keys is not None:
        if tuple(keys.shape) not in (shape[:1], shape) or keys.is_floating_point():
            raise NoiseError(
                f"document_keys must be integers, one per row {[shape[0]]} or one per token {list(shape)}, got "
                f"{keys.dtype} of shape {list(keys.shape)}. In packed rows give one per token."
            )
        per_token = keys if keys.ndim == 2 else keys[:, None].expand(shape)
        return per_token.to(device=layout.real.device, dtype=torch.int64)
    if input_ids is None:
        return layout.document
    if tuple(input_ids.shape) != shape:
        raise NoiseError(
            f"input_ids must have the shape of the tokens, {list(shape)}, got {list(input_ids.shape)}. "
            "Pass the ids that were embedded."
        )
    return document_keys(input_ids, layout)


def make_noise(
    layout: Layout, keys: Tensor, settings: NoiseSettings, *, width: int, draw: int, multiplier: float = 1.0
) -> Tensor:
    """The noise of every token in float32, (B, T, D), exactly 0 at padding.

    Args:
        layout: Documents of the batch.
        keys: Document key of every token, int64 (B, T).
        settings: What noise.
        width: D.
        draw: The exposure, taken modulo 2**64.
        multiplier: m, the factor that the embedding module itself applies.
    """
    real = layout.real.flatten()
    tokens = _without_padding(real)
    scale = settings.scale(layout.lengths, width, multiplier=multiplier)[layout.document] * layout.real
    mixed = mix(keys ^ signed(mix_int(settings.seed)))
    chosen = [t.flatten() if tokens is None else t.flatten()[tokens] for t in (mixed, layout.position, scale)]
    words = random_words(chosen[0], chosen[1], width=width, draw=draw % (1 << 64))
    entry = settings.entry
    # The power of two and the scale make one factor without rounding: one conversion, one multiplication.
    values = entry.integers(words).to(torch.float32).mul_((chosen[2] * 2.0**-entry.fraction_bits)[:, None])
    if tokens is not None and tokens.numel() < real.numel():
        values = values.new_zeros((real.numel(), width)).index_copy_(0, tokens, values)
    return values.view(*layout.real.shape, width)


def _without_padding(real: Tensor) -> Tensor | None:
    """Indices of the real tokens on the CPU; None elsewhere, where to know their number the host would wait."""
    return real.nonzero()[:, 0] if real.device.type == "cpu" else None


def add_noise(embeddings: Tensor, noise: Tensor) -> Tensor:
    """The sum, computed in float32 (float64 for float64 embeddings) and rounded once to the embeddings' dtype."""
    return (embeddings + noise).to(embeddings.dtype)
