"""Where each document lies in a batch: which tokens are whose, at which position, of how many.

# B rows, T positions in a row
"""

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from neftune.errors import NoiseError
from neftune.noise.hashing import GOLDEN, mix, signed


@dataclass(frozen=True, slots=True)
class Layout:
    """Documents of a batch, token by token. Where ``real`` is False the other fields mean nothing.

    Attributes:
        real: Whether the position holds a token of a document, bool (B, T).
        document: Index of its document, in order of appearance, int64 (B, T), below B * T.
        position: Its position in the document, from 0, int64 (B, T).
        length: Real tokens of its document, int64 (B, T).
        lengths: Real tokens of every document, int64 (B * T,); 0 past the last document.
    """

    real: Tensor
    document: Tensor
    position: Tensor
    length: Tensor
    lengths: Tensor


def read_layout(
    shape: tuple[int, int],
    device: torch.device,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    seq_idx: Tensor | None = None,
    placeholders: Tensor | None = None,
) -> Layout:
    """Documents as the given tensors describe them; with none of them every row is one document.

    A row is one document unless something divides it: position ids that do not go up from one token to the next,
    `cu_seqlens`, `seq_idx`, or an attention mask that numbers its documents 1, 2, 3. All lengths stay on the device.

    Args:
        shape: (B, T).
        device: Where the result lives.
        attention_mask: (B, T), 0 at padding on whichever side; where real tokens' numbers differ, a document starts.
        position_ids: (B, T) or (1, T), restarting with each document.
        cu_seqlens: Boundaries (0, L1, L1 + L2, ...) of the documents of a single row; what follows is padding.
        seq_idx: (B, T) or (1, T), each token's document by number, negative at padding.
        placeholders: Places of images or sound, bool (B, T): no tokens of a document, though one may begin there.

    Raises:
        NoiseError: A tensor has another shape than these, or boundaries (looked at on the CPU alone) are impossible.
    """
    mask = _check_shape("attention_mask", attention_mask, shape)
    real = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask != 0
    start = torch.zeros(shape, dtype=torch.bool, device=device)
    if mask is not None and mask.dtype != torch.bool:
        start = _changes(mask, real)
    if cu_seqlens is not None:
        real, start = _divide_by_boundaries(real, start, cu_seqlens)
    elif position_ids is not None:
        positions = _check_shape("position_ids", position_ids, shape)
        assert positions is not None
        start[:, 1:] |= real[:, 1:] & (positions[:, 1:] <= positions[:, :-1])
    elif seq_idx is not None:
        numbers = _check_shape("seq_idx", seq_idx, shape)
        assert numbers is not None
        real &= numbers >= 0
        start |= _changes(numbers, real)
    start[:, :1] = True
    return _number(real if placeholders is None else real & ~placeholders, start)


def sections(position_ids: Tensor, placeholders: Tensor | None) -> Tensor:
    """Numbers of the documents that positions in time, height and width tell, as ``seq_idx`` takes them.

    In a document the time goes up from one token of text to the next; inside an image it may stand still, but it never
    falls.

    Args:
        position_ids: Time, height and width, (3, B, T).
        placeholders: Places of images and videos, bool (B, T); None for none.

    Returns:
        int64 (B, T).
    """
    time = position_ids[0]
    starts = torch.zeros_like(time, dtype=torch.bool)
    starts[:, 1:] = time[:, 1:] <= time[:, :-1]
    if placeholders is not None:
        within = placeholders[:, 1:] | placeholders[:, :-1]
        starts[:, 1:] &= ~within | (time[:, 1:] < time[:, :-1])
    return starts.cumsum(1)


def _changes(numbers: Tensor, real: Tensor) -> Tensor:
    """Real positions whose number differs from that of the real position before them in the row."""
    places = torch.arange(real.shape[1], device=real.device).expand(real.shape)
    last_real = torch.where(real, places, -1).cummax(dim=1).values[:, :-1]
    changes = torch.zeros_like(real)
    changes[:, 1:] = real[:, 1:] & (last_real >= 0)
    changes[:, 1:] &= numbers[:, 1:] != numbers.gather(1, last_real.clamp(min=0))
    return changes


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    if tensor is None or tuple(tensor.shape) == shape:
        return tensor
    if tuple(tensor.shape) == (1, shape[1]):
        return tensor.expand(shape)
    raise NoiseError(
        f"{name} must have the shape of the tokens, {list(shape)}, got {list(tensor.shape)}: where documents begin "
        f"and end cannot be read from it. Pass a 2-D {name}, or perturb the embeddings yourself (neftune.perturb)."
    )


def _divide_by_boundaries(real: Tensor, start: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    rows, width = real.shape
    if cu_seqlens.ndim != 1 or rows != 1:
        raise NoiseError(
            f"cu_seqlens must be 1-D and describe a single row, got shape {list(cu_seqlens.shape)} for {rows} rows. "
            "Flatten the batch into one row, or pass position_ids that restart with each document."
        )
    if cu_seqlens.device.type == "cpu":
        _check_boundaries(cast(list[int], cu_seqlens.tolist()), width)  # pyright: ignore[reportUnknownMemberType]
    bounds = cu_seqlens.to(device=real.device, dtype=torch.int64)
    flags = torch.zeros(width + 1, dtype=torch.bool, device=real.device).index_fill_(0, bounds, True)
    places = torch.arange(width, device=real.device)
    inside = (places >= bounds[0]) & (places < bounds[-1])
    return real & inside, start | flags[None, :width]


def _check_boundaries(bounds: list[int], width: int) -> None:
    is_rising = all(a <= b for a, b in itertools.pairwise(bounds))
    if len(bounds) < 2 or not is_rising or bounds[0] < 0 or bounds[-1] > width:
        shown = f"{bounds[:8]}{' and more' if len(bounds) > 8 else ''}"
        raise NoiseError(
            f"cu_seqlens must hold two or more boundaries that never fall, from 0 or more to at most the row's {width} "
            f"tokens, got {shown}. Pass (0, L1, L1 + L2, ...) of this very row."
        )


def _number(real: Tensor, start: Tensor) -> Layout:
    """Layout from the real tokens and the places at or before whose next real token a document starts."""
    shape, flat = real.shape, real.flatten()
    count = flat.cumsum(0)
    # Documents begin at their first real token, so a boundary that falls on padding waits for it.
    section = start.flatten().cumsum(0) - 1
    sizes = torch.zeros_like(count).index_add_(0, section, flat.to(torch.int64))
    before = sizes.cumsum(0) - sizes
    return Layout(
        real=real,
        document=section.view(shape),
        position=(count - 1 - before[section]).view(shape),
        length=sizes[section].view(shape),
        lengths=sizes,
    )


def document_keys(input_ids: Tensor, layout: Layout) -> Tensor:
    """Each token's document as 64 bits: a hash of the document's token ids in their order, and of nothing else.

    Args:
        input_ids: Token ids, integers (B, T).
        layout: Documents of the same batch.

    Returns:
        int64 (B, T), equal for all tokens of a document, whatever the layout.
    """
    golden = signed(GOLDEN)
    terms = mix(input_ids.to(torch.int64) + (layout.position + 1) * golden) * layout.real
    sums = torch.zeros_like(layout.lengths).index_add_(0, layout.document.flatten(), terms.flatten())
    return mix(sums + layout.lengths * golden)[layout.document]
