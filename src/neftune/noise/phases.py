"""Which forward passes train."""

import sys

import torch
from torch.utils.checkpoint import CheckpointFunction

_CHECKPOINT_FORWARD = CheckpointFunction.forward.__code__  # pyright: ignore[reportUnknownMemberType]


def gradients_wanted() -> bool:
    """Whether this forward pass is one that gradients will be taken of.

    Reentrant checkpointing runs its first pass under ``no_grad`` and repeats it with gradients on the way back. Both
    must see the same noise, so the first counts as training where the checkpoint itself was called with gradients on.
    """
    return torch.is_grad_enabled() or _inside_reentrant_checkpoint()


def in_backward() -> bool:
    """Whether autograd is running a backward pass on this thread: a forward inside it is a recomputation."""
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportPrivateUsage]


def _inside_reentrant_checkpoint() -> bool:
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        # The node has somewhere to send gradients only if autograd was recording when it was made.
        if frame.f_code is _CHECKPOINT_FORWARD and frame.f_locals["ctx"].next_functions:
            return True
        frame = frame.f_back
    return False
