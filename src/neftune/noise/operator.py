"""The noise as operators of torch, which torch.compile puts into its graph as they are.

An operator is opaque to the compiler: whatever a forward is called with, its layout is read when it runs. So nothing
breaks the graph, nothing compiles again from step to step, and alpha, epoch and progress may change at any time.
"""

import inspect
import itertools
import sys
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from neftune.noise.given import Given
from neftune.noise.shares import like, local

if TYPE_CHECKING:
    from neftune.noise.handle import NoiseHandle

RANDOM_DRAW = -1
"""Stands for an exposure that is drawn from torch's generator."""

_CAN_TAG = "tags" in inspect.signature(torch.library.custom_op).parameters and hasattr(torch.Tag, "cudagraph_unsafe")
# CUDA graphs would replay the noise of the step that they recorded.
_NOT_RECORDED: Any = {"tags": (torch.Tag.cudagraph_unsafe,)} if _CAN_TAG else {}

_handles: weakref.WeakValueDictionary[int, "NoiseHandle"] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def number_handle(handle: "NoiseHandle") -> int:
    """A number by which a graph finds the handle for as long as it lives."""
    number = next(_numbers)
    _handles[number] = handle
    return number


# The operator counts its calls in place, or two forwards of one graph would be given one exposure for both.
@torch.library.custom_op("neftune::exposure", mutates_args=("num_asked",), **_NOT_RECORDED)
def _exposure(told: Tensor, num_asked: Tensor, handle: int) -> Tensor:
    owner = _handles.get(handle)
    num_asked += 1
    return torch.tensor(RANDOM_DRAW if owner is None else owner.next_draw())


@_exposure.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(told: Tensor, num_asked: Tensor, handle: int) -> Tensor:
    return torch.empty((), dtype=torch.int64, device="cpu")


@torch.library.custom_op("neftune::noised", mutates_args=(), **_NOT_RECORDED)
def _noised(  # noqa: PLR0913 (an operator takes tensors one by one)
    embedded: Tensor,
    input_ids: Tensor,
    draw: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    document_keys: Tensor | None,
    labels: Tensor | None,
    handle: int,
    stack: int,
) -> Tensor:
    owner, result = _handles.get(handle), embedded.clone(memory_format=torch.contiguous_format)
    # Hooks that go while a graph runs would leave it halfway.
    if owner is None or not owner.is_alive():
        return result
    given = Given(attention_mask, position_ids, cu_seqlens, seq_idx, document_keys, labels)
    result = owner.noise(result, input_ids, given, draw=int(draw), stack=stack)
    if stack == 0:
        owner.meter.num_forwards += 1
    return result


@_noised.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(embedded: Tensor, *_rest: Any) -> Tensor:
    return torch.empty_like(embedded, memory_format=torch.contiguous_format)


def _keep_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """The noise is a constant: the gradient needs no input."""


def _pass_on(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return gradient, *([None] * 10)


_noised.register_autograd(_pass_on, setup_context=_keep_nothing)  # pyright: ignore[reportUnknownMemberType]


def draw_exposure(told: Tensor, num_asked: Tensor, handle: int) -> Tensor:
    """The exposure of a forward that is being traced, an int64 on the CPU.

    Args:
        told: What the handle was told, an int64.
        num_asked: How often a graph asked it, an int64; counted up.
        handle: Its number.
    """
    return _exposure(told, num_asked, handle)


def noise_operator(
    embedded: Tensor, input_ids: Tensor, given: Given, draw: int | Tensor, *, handle: int, stack: int
) -> Tensor:
    """`NoiseHandle.noise` as a node of the graph that is being traced; a copy, through which gradients flow."""
    assert isinstance(draw, Tensor)
    # Operators know no DTensor; what the rank holds of one is told from its shape.
    return like(embedded, _noised(local(embedded), local(input_ids), draw, *given, handle, stack))


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside what ``torch.compile(model)`` returns."""
    inner = vars(model).get("_modules", {}).get("_orig_mod")
    return model if inner is None else inner


def forget_compiled() -> None:
    """Compile anew what was compiled, now that a model has got hooks."""
    # torch.compile does not look whether a module has got hooks since: what was compiled before would run without them.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
