"""What the modules above an embedding were called with."""

import inspect
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor, nn

from neftune.noise.stacks import Stack


@dataclass(slots=True)
class Forward:
    """One pass through the attached model, from its outermost call to the return of that call.

    Attributes:
        draw: Its exposure: a number, or, while torch.compile traces, a tensor that will hold one.
        reached: Stacks whose embedding was reached.
    """

    draw: int | Tensor | None
    reached: list[Stack]


@dataclass(slots=True)
class Call:
    """One module's call that has not returned yet; ``frame`` is the Python frame that makes it, where one is known.

    ``embedded`` are the stacks whose table it has looked up itself.
    """

    module: nn.Module
    frame: FrameType | None
    given: Mapping[str, Any]
    is_encoder_decoder: bool
    forward: Forward
    embedded: list[Stack]


class Calls:
    """Calls that have not returned yet, outermost first."""

    def __init__(self) -> None:
        self.open: list[Call] = []

    def enter(
        self,
        module: nn.Module,
        parameters: Sequence[str],
        *,
        args: tuple[Any, ...],
        given: dict[str, Any],
        frame: FrameType | None,
    ) -> None:
        """Note a call that ``frame`` makes; ``parameters`` names its positional arguments."""
        if frame is not None:
            self._forget_interrupted(frame)
        else:
            self._forget_entered(module)
        forward = self.open[0].forward if self.open else Forward(None, [])
        given = {**dict(zip(parameters, args, strict=False)), **given}
        self.open.append(Call(module, frame, given, "decoder_input_ids" in parameters, forward, []))

    def leave(self, module: nn.Module) -> Call | None:
        """Forget the module's innermost call, and all inside it; None where it has none."""
        for i in range(len(self.open) - 1, -1, -1):
            if self.open[i].module is module:
                call = self.open[i]
                del self.open[i:]
                return call
        return None

    def _forget_interrupted(self, frame: FrameType | None) -> None:
        # torch calls no hook when a forward ends in a KeyboardInterrupt: such a call's frame is gone. Where the frame
        # of the innermost call is alive, those of all others are.
        innermost = self.open[-1].frame if self.open else None
        if innermost is None:
            return
        alive: set[FrameType] = set()
        while frame is not None and frame is not innermost:
            alive.add(frame)
            frame = frame.f_back
        if frame is innermost:
            return
        for i, call in enumerate(self.open):
            if call.frame is not None and call.frame not in alive:
                del self.open[i:]
                return

    def _forget_entered(self, module: nn.Module) -> None:
        # While torch.compile traces there are no frames: a module that is entered again was left by an exception.
        for i, call in enumerate(self.open):
            if call.module is module:
                del self.open[i:]
                return

    def anywhere(self, name: str) -> Any:
        """The value that any open call has under this name, the outermost first; None without one."""
        for call in self.open:
            if call.given.get(name) is not None:
                return call.given[name]
        return None

    def find(self, name: str, stack: Stack) -> Any:
        """What the stack was given under this name: the innermost call that mentions it decides."""
        for call in reversed(self.open):
            local = _local_name(call, name, stack)
            if local in call.given:
                return call.given[local]
        return None

    def model_input(self, name: str, stack: Stack) -> Any:
        """What the innermost whole model was given under this name, not a part of it that embeds."""
        for call in reversed(self.open):
            if hasattr(call.module, "get_input_embeddings"):
                return call.given.get(_local_name(call, name, stack))
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
            rows = as_rows(call.given.get(_local_name(call, name, stack)))
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
        call.embedded.append(stack)
        return is_first or not stack.text_comes_first

    def text_ids(self, stack: Stack, input_ids: Tensor) -> Tensor:
        """The ids as the model was given them: some put another id into the places of images before they embed."""
        given = self.anywhere("input_ids") if stack.placeholder_ids else None
        return given if isinstance(given, Tensor) and given.shape == input_ids.shape else input_ids


class ThreadCalls(threading.local):
    """Each thread's calls."""

    def __init__(self) -> None:
        self.calls = Calls()


def _local_name(call: Call, name: str, stack: Stack) -> str:
    return f"decoder_{name}" if stack.role == "decoder" and call.is_encoder_decoder else name


def positional_parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments that a module's forward takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds)


def as_rows(value: object) -> Tensor | None:
    """A 2-D tensor, or a 1-D one as the only row; None for anything else."""
    if not isinstance(value, Tensor) or value.ndim not in (1, 2):
        return None
    return value if value.ndim == 2 else value[None]
