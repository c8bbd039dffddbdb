"""What a model was told of its documents, and the layout of the batch that follows from it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neftune.errors import NoiseError
from neftune.noise.calls import Calls, as_rows
from neftune.noise.documents import Layout, read_layout, sections
from neftune.noise.phases import in_backward
from neftune.noise.settings import Positions
from neftune.noise.stacks import Stack

DOCUMENT_KEYS = "document_keys"
"""A batch may carry its documents' keys under this name; models never see it."""

RESPONSE_MASK = "response_mask"
"""A batch may say under this name which tokens (B, T) are the response, where labels do not; models never see it."""

ASIDE = (DOCUMENT_KEYS, RESPONSE_MASK)
"""What is for the noise alone."""

_BOUNDARIES = ("cu_seq_lens_q", "cu_seqlens", "cu_seq_lens", "cu_seqlens_q")
_IGNORED_LABEL = -100
_MROPE_AXES = 3


class Given(NamedTuple):
    """What a stack was told of its documents, as tensors; None where nothing was said.

    Attributes:
        attention_mask: (B, T).
        position_ids: (B, T) or (1, T), or with axes of time and space in front of them.
        cu_seqlens: Boundaries of a single row.
        seq_idx: (B, T) or (1, T).
        document_keys: (B,) or (B, T).
        labels: What the model was given under this name, or what the response mask says in its place.
    """

    attention_mask: Tensor | None
    position_ids: Tensor | None
    cu_seqlens: Tensor | None
    seq_idx: Tensor | None
    document_keys: Tensor | None
    labels: Tensor | None


def given_to(calls: Calls, stack: Stack, input_ids: Tensor) -> Given:
    """What the open calls say about the documents that a stack is about to embed.

    Raises:
        NoiseError: What the model was called with does not say where its documents are.
    """
    # A cache that comes from further in holds virtual tokens (prefix tuning).
    _refuse_past(calls.open[0].given.get("past_key_values"))
    if stack.text_comes_first:
        _refuse_other_batch(calls.model_input("input_ids", stack), input_ids)
    width = input_ids.shape[1]
    mask = calls.find_readable("attention_mask", stack, width)
    positions = calls.find_readable("position_ids", stack, width)
    boundaries = None
    for name in _BOUNDARIES:
        boundaries = calls.find(name, stack) if boundaries is None else boundaries
    if mask is not None and as_rows(mask) is None:
        if positions is None and boundaries is None:
            raise NoiseError(
                "attention_mask must be 2-D, or position_ids must say where documents begin; got a mask of "
                f"{getattr(mask, 'ndim', 'no')} dimensions ({type(mask).__name__}) and "
                "neither position_ids nor cu_seq_lens_q. Pass position_ids that restart with each document."
            )
        mask = None
    keys = calls.anywhere(DOCUMENT_KEYS)
    for name, value in (("position_ids", positions), ("cu_seq_lens_q", boundaries), (DOCUMENT_KEYS, keys)):
        _refuse_others(name, value)
    labels = _labels(calls.anywhere("labels"), calls.anywhere(RESPONSE_MASK))
    fits = isinstance(labels, Tensor) and labels.shape == input_ids.shape
    if stack.role == "decoder" and fits and calls.anywhere("decoder_attention_mask") is None:
        # Some make a mask of shifted labels, whose length depends on the padding; the labels tell it exactly.
        mask = None
    return Given(
        attention_mask=mask,
        position_ids=positions,
        cu_seqlens=boundaries,
        seq_idx=calls.find("seq_idx", stack) if boundaries is None and positions is None else None,
        document_keys=keys,
        labels=labels if isinstance(labels, Tensor) else None,
    )


def _labels(labels: Any, response_mask: Any) -> Any:
    if response_mask is None:
        return labels
    _refuse_others(RESPONSE_MASK, response_mask)
    return torch.zeros_like(response_mask, dtype=torch.int64).masked_fill(response_mask == 0, _IGNORED_LABEL)


def _refuse_others(name: str, value: object) -> None:
    if value is not None and not isinstance(value, Tensor):
        raise NoiseError(f"{name} must be a tensor, got {type(value).__name__}. Pass torch.tensor(...).")


def layout_of(given: Given, stack: Stack, input_ids: Tensor, *, may_read: bool = True) -> Layout:
    """Documents of the token ids that a stack is about to embed.

    Args:
        given: What the model was told of them.
        stack: The stack.
        input_ids: Token ids (B, T).
        may_read: Whether to look at values on a device, for which the host waits.

    Raises:
        NoiseError: What the model was called with does not say where its documents are.
    """
    mask, positions, sequences = given.attention_mask, given.position_ids, given.seq_idx
    placeholders = _placeholders(stack, input_ids)
    if positions is not None and positions.ndim == 3:
        # Four rows are the position in the row, time, height and width.
        is_plain = positions.shape[0] != _MROPE_AXES
        sequences = None if is_plain else sections(positions, placeholders)
        positions = positions[0] if is_plain else None
    if mask is None and positions is not None and stack.pad_id is not None:
        mask = ~_filling(positions, input_ids, stack.pad_id)
    elif mask is None and given.cu_seqlens is None and positions is None and sequences is None:
        if stack.role == "decoder":
            mask = _decoder_mask(given.labels, stack, input_ids)
        elif stack.pad_is_padding:
            mask = input_ids != stack.pad_id
        elif may_read:
            _refuse_unmarked_padding(given.labels, stack, input_ids)
    return read_layout(
        (input_ids.shape[0], input_ids.shape[1]),
        input_ids.device,
        attention_mask=mask,
        position_ids=positions,
        cu_seqlens=given.cu_seqlens,
        seq_idx=sequences,
        placeholders=placeholders,
    )


def _filling(positions: Tensor, input_ids: Tensor, pad_id: int) -> Tensor:
    """Padding ids at the end of a row, each at position 0: so collators fill packed rows up to a multiple."""
    padding = (input_ids == pad_id) & (positions == 0)
    return padding.flip(1).cumprod(1).flip(1) > 0


def _placeholders(stack: Stack, input_ids: Tensor) -> Tensor | None:
    if not stack.placeholder_ids:
        return None
    places = torch.zeros_like(input_ids, dtype=torch.bool)
    for token in stack.placeholder_ids:
        places |= input_ids == token
    return places


def chosen_tokens(positions: Positions, given: Given, stack: Stack, input_ids: Tensor) -> Tensor | None:
    """Which tokens get noise, bool (B, T); None for all.

    An encoder reads the prompt and a decoder the response. Elsewhere labels tell: -100 is the prompt.

    Raises:
        NoiseError: Labels are needed and not given in the shape of the tokens.
    """
    if positions == "all":
        return None
    if stack.role != "only":
        is_chosen = (stack.role == "encoder") == (positions == "prompt")
        return torch.full_like(input_ids, is_chosen, dtype=torch.bool)
    labels = given.labels
    if labels is None or labels.shape != input_ids.shape:
        got = "none" if labels is None else f"labels of shape {list(labels.shape)}"
        raise NoiseError(
            f"positions={positions!r} needs labels of the tokens' shape {list(input_ids.shape)} that are -100 at the "
            f'prompt, got {got}. Pass labels to the model, or use positions="all".'
        )
    is_response = labels != _IGNORED_LABEL
    return is_response if positions == "response" else ~is_response


def _refuse_other_batch(given: Any, input_ids: Tensor) -> None:
    """Refuse ids that a model has laid out anew since it was given them: what else it was given fits no more.

    Raises:
        NoiseError: They have another shape, or are turned.
    """
    if not isinstance(given, Tensor) or given.ndim != 2:
        return
    rows, width = input_ids.shape
    is_same = given.shape[0] == rows and given.shape[1] == width
    # A square batch that is turned has the same shape.
    if is_same and (torch.compiler.is_compiling() or rows != width or torch.equal(given, input_ids)):
        return
    raise NoiseError(
        f"an embedding must look up the batch as the model was given it, {list(given.shape)}, got "
        f"{list(input_ids.shape)}, turned or padded by the model: where documents begin and end cannot be told. Give "
        "rows of the width that the model makes of them (Longformer), or perturb the embeddings yourself "
        "(neftune.perturb)."
    )


def _refuse_past(cache: Any) -> None:
    if cache is None or torch.compiler.is_compiling() or in_backward():
        return
    if cache.get_seq_length() if hasattr(cache, "get_seq_length") else len(cache):
        raise NoiseError(
            "a training forward with noise must hold whole documents, got past_key_values that are not empty: the "
            "tokens before these are not in the batch. Pass whole documents, use paused() for this forward, or, where "
            "they are a wrapper's virtual tokens (PEFT's prefix tuning), attach to the wrapper."
        )


def _refuse_unmarked_padding(labels: Tensor | None, stack: Stack, input_ids: Tensor) -> None:
    """Refuse rows that are plainly padded while nothing that the model was given says so.

    Raises:
        NoiseError: A row ends in two or more padding ids, or in one whose label is ignored.
    """
    if stack.pad_id is None:
        return
    padding = input_ids == stack.pad_id
    padded = padding[:, -2:].all(dim=1) if padding.shape[1] > 1 else torch.zeros_like(padding[:, 0])
    # Where EOS pads, the one at a document's end often has its label ignored too.
    if labels is not None and labels.shape == padding.shape and stack.pad_id not in stack.eos_ids:
        padded |= padding[:, -1] & (labels[:, -1] == _IGNORED_LABEL)
    if bool(padded.any()):
        raise NoiseError(
            f"padding must be told from text, got {int(padded.sum())} of {len(padded)} rows that end in padding "
            f"(pad_token_id={stack.pad_id}) and no attention_mask, position_ids or cu_seq_lens_q. Pass attention_mask."
        )


def _decoder_mask(labels: Tensor | None, stack: Stack, input_ids: Tensor) -> Tensor:
    """Real positions of a decoder that was given no mask of its own.

    Labels tell: positions up to the last one that is trained on are the document, and it has that length in any
    batch. Without labels, padding at the end is not the document, nor is the EOS before it, which only the
    shift of padded labels leaves there; the first position always is.

    Raises:
        NoiseError: There are neither labels nor a padding id.
    """
    if labels is not None and labels.shape == input_ids.shape:
        return _up_to_last(labels != _IGNORED_LABEL)
    if stack.pad_id is None:
        raise NoiseError(
            "a decoder needs decoder_attention_mask, labels, or a pad_token_id in the model's config to tell padding "
            "from text; got none of them. Pass decoder_attention_mask."
        )
    content = input_ids != stack.pad_id
    content[:, 0] = True
    real = _up_to_last(content)
    padded_after = torch.zeros_like(real)
    padded_after[:, :-1] = ~real[:, 1:]
    for eos in stack.eos_ids:
        leftover = real & padded_after & (input_ids == eos)
        leftover[:, 0] = False
        real = real & ~leftover
    return real


def _up_to_last(content: Tensor) -> Tensor:
    """True up to and including each row's last True."""
    return content.flip(1).cumsum(1).flip(1) > 0
