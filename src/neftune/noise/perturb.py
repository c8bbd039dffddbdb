"""The pure function: embeddings in, noised embeddings out.

# B rows, T positions in a row, D width
"""

import torch
from torch import Tensor

from neftune.errors import NoiseError
from neftune.noise.add import Squares, add_
from neftune.noise.documents import read_layout
from neftune.noise.settings import Match, NoiseSettings
from neftune.noise.tokens import TokenNoise, token_keys, token_noise


def perturb(  # noqa: PLR0913 (the layout of a batch comes in these forms)
    embeddings: Tensor,
    alpha: float,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    input_ids: Tensor | None = None,
    document_keys: Tensor | None = None,
    chosen: Tensor | None = None,
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
        chosen: (B, T), non-zero at the tokens that get noise; None for all real ones. L stays the whole document's.
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
    flat = [t[None] if t is not None and t.ndim == 1 else t for t in (attention_mask, position_ids, input_ids, chosen)]
    shape = (batch.shape[0], batch.shape[1])
    layout = read_layout(shape, batch.device, attention_mask=flat[0], position_ids=flat[1], cu_seqlens=cu_seqlens)
    noise = token_noise(
        layout,
        token_keys(layout, input_ids=flat[2], keys=document_keys),
        settings,
        alpha=settings.alpha,
        width=batch.shape[-1],
        draw=new_draw(alpha) if draw is None else draw,
        chosen=None if flat[3] is None else flat[3] != 0,
    )
    return noised_copy(batch, noise)[0].view_as(embeddings)


def new_draw(alpha: float) -> int:
    """One integer from torch's CPU generator, so that seeding, restoring and checkpointing treat noise like dropout.

    At alpha = 0 none is taken, so that the baseline equals a model without noise bit for bit, dropout included.
    """
    return int(torch.randint(1 << 62, (), device="cpu")) if alpha else 0


def noised_copy(embeddings: Tensor, noise: TokenNoise) -> tuple[Tensor, Squares]:
    """A noised copy, through which gradients flow as through the embeddings, and what was added."""
    result = embeddings.clone(memory_format=torch.contiguous_format)
    return result, add_(result.detach().view(-1, noise.width), noise)


def noise_in_place(embeddings: Tensor, noise: TokenNoise) -> tuple[Tensor, Squares]:
    """The embeddings with the noise in them and what was added; a copy only where autograd or others hold the memory.

    Args:
        embeddings: (B, T, D), fresh from an embedding module.
        noise: The noise of its tokens.
    """
    is_shared = embeddings._is_view() or (embeddings.is_leaf and embeddings.requires_grad)  # pyright: ignore[reportPrivateUsage]
    if is_shared or not embeddings.is_contiguous():
        return noised_copy(embeddings, noise)
    squares = add_(embeddings.detach().view(-1, noise.width), noise)
    # Compiled code writes past autograd, which must know: whoever kept these values for a backward pass is refused.
    torch.autograd.graph.increment_version(embeddings)
    return embeddings, squares
