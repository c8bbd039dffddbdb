"""What the modules above an embedding were called with, and the layout of the batch that follows from it."""

import inspect
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from neftune.errors import NoiseError
from neftune.noise.documents import Layout, read_layout, sections
from neftune.noise.phases import in_backward
from neftune.noise.stacks import Stack

DOCUMENT_KEYS = "document_keys"
"""A batch may carry its documents' keys under this name; models never see it."""

_BOUNDARIES = ("cu_seq_lens_q", "cu_seqlens", "cu_seq_lens", "cu_seqlens_q")
_IGNORED_LABEL = -100
_MROPE_AXES = 3


@dataclass(slots=True)
class Forward:
    """One pass through the attached model, from its outermost call to the return of that call."""

    draw: int | None = None
    reached: set[Stack] = field(default_factory=set[Stack])


@dataclass(frozen=True, slots=True)
class Call:
    """One module's call that has not returned yet; ``frame`` is the Python frame that makes it."""

    module: nn.Module
    frame: FrameType
    given: Mapping[str, Any]
    is_encoder_decoder: bool
    forward: Forward
    embedded: set[Stack] = field(default_factory=set[Stack])


class Calls(threading.local):
    """Calls that have not returned yet, outermost first, in this thread."""

    def __init__(self) -> None:
        self.open: list[Call] = []
        self._read: set[torch.device] = set()

    def enter(
        self,
        module: nn.Module,
        parameters: Sequence[str],
        *,
        args: tuple[Any, ...],
        given: dict[str, Any],
        frame: FrameType,
    ) -> None:
        """Note a call that ``frame`` makes; ``parameters`` names its positional arguments."""
        if any(call.module is module for call in self.open):
            self._forget_interrupted()
        forward = self.open[0].forward if self.open else Forward()
        given = {**dict(zip(parameters, args, strict=False)), **given}
        self.open.append(Call(module, frame, given, "decoder_input_ids" in parameters, forward))

    def leave(self, module: nn.Module) -> Call | None:
        """Forget the module's innermost call, and all inside it; None where it has none."""
        for i in range(len(self.open) - 1, -1, -1):
            if self.open[i].module is module:
                call = self.open[i]
                del self.open[i:]
                return call
        return None

    def may_read(self, device: torch.device) -> bool:
        """Whether to look at a batch's values: always on the CPU, elsewhere once, because the host waits for it."""
        if device.type == "cpu":
            return True
        is_first = device not in self._read
        self._read.add(device)
        return is_first

    def _forget_interrupted(self) -> None:
        # torch calls no hook when a forward ends in a KeyboardInterrupt: such a call's frame is gone. A module that
        # calls itself, or a recomputation inside a running forward, is entered twice with both frames alive.
        alive: set[FrameType] = set()
        frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        while frame is not None:
            alive.add(frame)
            frame = frame.f_back
        for i, call in enumerate(self.open):
            if call.frame not in alive:
                del self.open[i:]
                return

    def anywhere(self, name: str) -> Any:
        """The value that any open call has under this name, the outermost first; None without one."""
        return next((call.given[name] for call in self.open if call.given.get(name) is not None), None)

    def find(self, name: str, stack: Stack) -> Any:
        """What the stack was given under this name: the innermost call that mentions it decides."""
        for call in reversed(self.open):
            local = f"decoder_{name}" if stack.role == "decoder" and call.is_encoder_decoder else name
            if local in call.given:
                return call.given[local]
        return None

    def find_readable(self, name: str, stack: Stack, width: int) -> Any:
        """Like `find`, but takes the nearest 2-D tensor where models turn it into something else on the way in.

        Of several, the nearest as wide as the tokens: virtual tokens in front of them make a mask wider further in.
        """
        value = self.find(name, stack)
        if value is None:
            return None
        found: list[Tensor] = []
        for call in reversed(self.open):
            local = f"decoder_{name}" if stack.role == "decoder" and call.is_encoder_decoder else name
            rows = as_rows(call.given.get(local))
            if rows is not None:
                found.append(rows)
        fitting = [rows for rows in found if rows.shape[1] == width]
        return (fitting or found or [value])[0]

    def is_text(self, stack: Stack) -> bool:
        """Whether the ids that a stack's table is looked up with are the text; notes that they were.

        Transformers' models look up token types, padding and the codes of images in the same table after the text.
        """
        call = self.open[-1]
        is_first = stack not in call.embedded
        call.embedded.add(stack)
        return is_first or not stack.text_comes_first

    def text_ids(self, stack: Stack, input_ids: Tensor) -> Tensor:
        """The ids as the model was given them: some put another id into the places of images before they embed."""
        given = self.anywhere("input_ids") if stack.placeholder_ids else None
        return given if isinstance(given, Tensor) and given.shape == input_ids.shape else input_ids


def positional_parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments that a module's forward takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds)


def layout_of(calls: Calls, stack: Stack, input_ids: Tensor) -> Layout:
    """Documents of the token ids that a stack is about to embed.

    Raises:
        NoiseError: What the model was called with does not say where its documents are.
    """
    # A cache that comes from further in holds virtual tokens (prefix tuning).
    _refuse_past(calls.open[0].given.get("past_key_values"))
    width = input_ids.shape[1]
    mask = calls.find_readable("attention_mask", stack, width)
    positions = calls.find_readable("position_ids", stack, width)
    boundaries = next((b for name in _BOUNDARIES if (b := calls.find(name, stack)) is not None), None)
    if mask is not None and as_rows(mask) is None:
        if positions is None and boundaries is None:
            raise NoiseError(
                "attention_mask must be 2-D, or position_ids must say where documents begin; got a mask of "
                f"{getattr(mask, 'ndim', 'no')} dimensions ({type(mask).__name__}) and "
                "neither position_ids nor cu_seq_lens_q. Pass position_ids that restart with each document."
            )
        mask = None
    sequences = calls.find("seq_idx", stack) if boundaries is None and positions is None else None
    placeholders = _placeholders(stack, input_ids)
    if isinstance(positions, Tensor) and positions.ndim == 3:
        # Four rows are the position in the row, time, height and width.
        is_plain = positions.shape[0] != _MROPE_AXES
        sequences = None if is_plain else sections(positions, placeholders)
        positions = positions[0] if is_plain else None
    if all(given is None for given in (mask, boundaries, positions, sequences)):
        if stack.role == "decoder":
            mask = _decoder_mask(calls, stack, input_ids)
        elif stack.pad_is_padding:
            mask = input_ids != stack.pad_id
        else:
            _refuse_unmarked_padding(calls, stack, input_ids)
    return read_layout(
        (input_ids.shape[0], input_ids.shape[1]),
        input_ids.device,
        attention_mask=mask,
        position_ids=positions,
        cu_seqlens=boundaries,
        seq_idx=sequences,
        placeholders=placeholders,
    )


def _placeholders(stack: Stack, input_ids: Tensor) -> Tensor | None:
    if not stack.placeholder_ids:
        return None
    places = torch.zeros_like(input_ids, dtype=torch.bool)
    for token in stack.placeholder_ids:
        places |= input_ids == token
    return places


def _refuse_past(cache: Any) -> None:
    if cache is None or in_backward():
        return
    if cache.get_seq_length() if hasattr(cache, "get_seq_length") else len(cache):
        raise NoiseError(
            "a training forward with noise must hold whole documents, got past_key_values that are not empty: the "
            "tokens before these are not in the batch. Pass whole documents, or use paused() for this forward."
        )


def _refuse_unmarked_padding(calls: Calls, stack: Stack, input_ids: Tensor) -> None:
    """Refuse rows that are plainly padded while nothing that the model was given says so.

    Raises:
        NoiseError: A row ends in two or more padding ids, or in one whose label is ignored.
    """
    if stack.pad_id is None or not calls.may_read(input_ids.device):
        return
    padding = input_ids == stack.pad_id
    padded = padding[:, -2:].all(dim=1) if padding.shape[1] > 1 else torch.zeros_like(padding[:, 0])
    labels = calls.anywhere("labels")
    # Where EOS pads, the one at a document's end often has its label ignored too.
    if isinstance(labels, Tensor) and labels.shape == padding.shape and stack.pad_id not in stack.eos_ids:
        padded |= padding[:, -1] & (labels[:, -1] == _IGNORED_LABEL)
    if bool(padded.any()):
        raise NoiseError(
            f"padding must be told from text, got {int(padded.sum())} of {len(padded)} rows that end in padding "
            f"(pad_token_id={stack.pad_id}) and no attention_mask, position_ids or cu_seq_lens_q. Pass attention_mask."
        )


def as_rows(value: object) -> Tensor | None:
    """A 2-D tensor, or a 1-D one as the only row; None for anything else."""
    if not isinstance(value, Tensor) or value.ndim not in (1, 2):
        return None
    return value if value.ndim == 2 else value[None]


def _decoder_mask(calls: Calls, stack: Stack, input_ids: Tensor) -> Tensor:
    """Real positions of a decoder that was given no mask of its own.

    Labels tell: positions up to the last one that is trained on are the document, and it has that length in any
    batch. Without labels, padding at the end is not the document, nor is the EOS before it, which only the
    shift of padded labels leaves there; the first position always is.

    Raises:
        NoiseError: There are neither labels nor a padding id.
    """
    labels = calls.anywhere("labels")
    if isinstance(labels, Tensor) and labels.shape == input_ids.shape:
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
