"""The noise on one model: its hooks, its phases, its meter; silence is refused."""

import contextlib
import dataclasses
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from neftune.errors import ConfigError, NoiseError
from neftune.noise.calls import Call, Calls, ThreadCalls, positional_parameters
from neftune.noise.given import ASIDE, Given, chosen_tokens, given_to, layout_of
from neftune.noise.hooks import Hook, hook_owner
from neftune.noise.meter import Meter
from neftune.noise.operator import (
    RANDOM_DRAW,
    draw_exposure,
    forget_compiled,
    noise_operator,
    number_handle,
    uncompiled,
)
from neftune.noise.perturb import new_draw
from neftune.noise.phases import gradients_wanted, in_backward
from neftune.noise.ranks import Ranks
from neftune.noise.settings import NoiseSettings
from neftune.noise.shares import is_divided
from neftune.noise.stacks import Stack, ancestors, find_stacks
from neftune.noise.tables import Embeddings, check_lookup
from neftune.noise.tokens import token_keys, token_noise
from neftune.records import RealisedNoise

_EMBEDDED = ("inputs_embeds", "decoder_inputs_embeds")


class NoiseHandle:
    """The noise on one model. Made by `attach`.

    Args:
        model: The model.
        settings: What noise.
        is_alive: Asked at each training forward; once it says no the noise detaches itself.
        embeddings: The token embeddings, where the model does not tell them.
        ranks: How the ranks of one training share their batches, where they share rows.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: NoiseSettings,
        *,
        is_alive: Callable[[], bool] | None = None,
        embeddings: Embeddings | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.settings = settings
        self._ranks = ranks or Ranks()
        self.meter = Meter()
        self._is_alive = is_alive
        self._removables: list[Any] = []
        self._told, self._num_asked = torch.tensor(RANDOM_DRAW), torch.tensor(0)
        self._progress: float | None = None
        self._num_pauses = self._num_uncounted = 0
        self._own, self._threads, self._thread = Calls(), ThreadCalls(), threading.get_ident()
        self._read: set[torch.device] = set()
        self._begun_at: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        model = uncompiled(model)
        self._stacks = find_stacks(model, embeddings)
        self._leads_to = ancestors(model, self._stacks)
        self._refuse_second(model)
        self._number = number_handle(self)
        self._removables = self._hook()
        forget_compiled()

    @property
    def alpha(self) -> float:
        """The paper's scale, at this moment of the schedule.

        Raises:
            NoiseError: A schedule runs and nothing has told the progress.
        """
        if not self.settings.is_scheduled:
            return self.settings.alpha
        if self._progress is None:
            raise NoiseError(
                f"schedule {self.settings.schedule!r} needs the progress of training, got none. Call "
                "handle.set_progress(step / num_steps) at every step; NoiseCallback does it by itself."
            )
        return self.settings.alpha_at(self._progress)

    def is_alive(self) -> bool:
        """Whether the noise is on the model and has not outlived what it was set up for."""
        # A recomputation belongs to a forward that was asked already, and may run on a thread of autograd's.
        return bool(self._removables) and (self._is_alive is None or in_backward() or self._is_alive())

    def is_on(self) -> bool:
        """Whether the noise is on the model. Noise that has outlived what it was set up for is taken off here."""
        if not self.is_alive():
            self.detach()
        return bool(self._removables)

    def detach(self) -> None:
        """Take the noise off the model, which is then exactly as it was. A second call does nothing."""
        for removable in self._removables:
            removable.remove()
        self._removables = []
        self._is_alive = None
        self._own, self._threads = Calls(), ThreadCalls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """No noise inside this block, whatever the phase."""
        self._num_pauses += 1
        try:
            yield
        finally:
            self._num_pauses -= 1

    @contextlib.contextmanager
    def uncounted(self) -> Generator[None]:
        """A forward in this block is noised and not counted: it repeats one that was (R3F, FreeLB).

        It has the noise of the first where the exposure is told (`set_epoch`) or torch's generator stands where it did.
        """
        self._num_uncounted += 1
        try:
            yield
        finally:
            self._num_uncounted -= 1

    def set_epoch(self, epoch: int) -> None:
        """Make the epoch the exposure: noise depends on seed, document and epoch alone, not on torch's generator.

        Args:
            epoch: A whole number from 0 to below 2**63.

        Raises:
            ConfigError: It is not.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch < 1 << 63:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"an epoch must be a whole number from 0 to below 2**63, got {epoch!r}. Count from 0.")
        self._told.fill_(epoch)

    def set_progress(self, progress: float) -> None:
        """Tell the schedule how much of training is done.

        Args:
            progress: In [0, 1].

        Raises:
            ConfigError: It is not.
        """
        if not 0 <= progress <= 1:
            raise ConfigError(f"progress must be a share in [0, 1], got {progress!r}. Pass step / num_steps.")
        self._progress = float(progress)

    def realised(self) -> RealisedNoise:
        """What the model really received so far; also after `detach`. Waits for the device.

        Raises:
            NoiseError: Nothing was noised yet.
        """
        return self.meter.realised()

    def _refuse_second(self, model: nn.Module) -> None:
        for stack in self._stacks:
            owner = hook_owner(stack.embedding)
            if isinstance(owner, NoiseHandle) and owner.is_on():
                raise NoiseError(
                    f"a model takes one noise at a time, {type(model).__name__} has one already. "
                    "Call detach() on its handle first."
                )
            _refuse_transformers(stack.embedding)

    def _hook(self) -> list[Any]:
        removables: list[Any] = []
        for module, stacks in self._leads_to.items():
            below = tuple(stack for stack in self._stacks if stack in stacks)
            known = vars(module).get("forward"), positional_parameters(module)
            enter = Hook(partial(self._enter, known), owner=self)
            leave = Hook(partial(self._leave, below), owner=self)
            removables.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            removables.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        for embedding in dict.fromkeys(stack.embedding for stack in self._stacks):
            noise = Hook(partial(self._noise, embedding), owner=self)
            removables.append(embedding.register_forward_hook(noise, with_kwargs=True))
        return removables

    def _calls(self) -> Calls:
        """This thread's calls; what torch.compile traces, a model or its parts, belongs to the thread of `attach`."""
        if torch.compiler.is_compiling() or threading.get_ident() == self._thread:
            return self._own
        return self._threads.calls

    def _enter(
        self,
        known: tuple[object, tuple[str, ...]],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # A trainer may send a method of its own through the model's forward for one call (TRL's DistillationTrainer).
        forward, parameters = known
        if not torch.compiler.is_compiling() and vars(module).get("forward") is not forward:
            parameters = positional_parameters(module)
        # Above this function and `Hook.__call__` lies the frame of torch that calls the module.
        frame = None if torch.compiler.is_compiling() else sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
        self._calls().enter(module, parameters, args=args, given=kwargs, frame=frame)
        if not any([name in kwargs for name in ASIDE]):  # noqa: C419 (traced)
            return None
        return args, {name: value for name, value in kwargs.items() if name not in ASIDE}

    def _leave(self, below: tuple[Stack, ...], module: nn.Module, args: object, kwargs: object, result: object) -> None:
        calls = self._calls()
        had_embeddings = any([calls.anywhere(name) is not None for name in _EMBEDDED])  # noqa: C419 (traced)
        call = calls.leave(module)
        # After an exception there is no result, and nothing to add to what it says.
        if call is None or calls.open or result is None or not self._trains(module):
            return
        missed = [stack for stack in below if stack not in call.forward.reached]
        if missed:
            self._refuse_missed(call, missed, had_embeddings)
        elif not torch.compiler.is_compiling():
            self.meter.num_forwards += self._counts()

    def _refuse_missed(self, call: Call, missed: list[Stack], had_embeddings: bool) -> None:
        names = ", ".join(f"{type(stack.module).__name__}'s {type(stack.embedding).__name__}" for stack in missed)
        remedy = (
            "inputs_embeds was given instead: give input_ids, or noise the embeddings yourself (neftune.perturb)"
            if had_embeddings
            else "if the embedding was replaced or wrapped, or is in eval mode alone, attach again after that; if a "
            "wrapper looks its ids up in another table, name that one (embeddings=)"
        )
        raise NoiseError(
            f"the noise must reach {names} in every training forward; {type(call.module).__name__} "
            f"was run without it. Remedy: {remedy}; for a pass without noise use paused()."
        )

    def _trains(self, module: nn.Module) -> bool:
        if torch.compiler.is_compiling():
            return module.training and not self._num_pauses and torch.is_grad_enabled()
        return module.training and not self._num_pauses and gradients_wanted() and self.is_on()

    def _noise(
        self, embedding: nn.Module, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        if not self._trains(module):
            return None
        calls = self._calls()
        if not calls.open:
            raise NoiseError(
                "the embedding must be called by the attached model's own forward, it was called on its own while "
                "training. Call model(...), not model.forward(...); where a wrapper embeds (PEFT's prompt tuning), "
                "attach to the wrapper; to embed tokens yourself use paused() and neftune.perturb."
            )
        index = self._running_stack(calls, embedding)
        stack, input_ids = self._stacks[index], (*args, *kwargs.values())[0]
        # A single id is how models look for placeholders in embeddings that were given to them.
        if input_ids.ndim == 0 or not calls.is_text(stack):
            return None
        self._refuse_part(calls.open[0])
        forward = calls.open[0].forward
        forward.reached.append(stack)
        if not is_divided(output, input_ids, embedding):
            check_lookup(input_ids, output)
        stack.refuse_wrapped()
        ids = calls.text_ids(stack, input_ids if input_ids.ndim == 2 else input_ids[None])
        rows = output if output.ndim == 3 else output[None]
        given = given_to(calls, stack, ids)
        is_traced = torch.compiler.is_compiling()
        if forward.draw is None:
            forward.draw = draw_exposure(self._told, self._num_asked, self._number) if is_traced else self.next_draw()
        if is_traced:
            noised = noise_operator(rows, ids, given, forward.draw, handle=self._number, stack=index)
        else:
            _refuse_transformers(module)
            noised = self.noise(rows, ids, given, draw=int(forward.draw), stack=index)
        return noised if output.ndim == 3 else noised[0]

    def _refuse_part(self, outermost: Call) -> None:
        """Refuse to noise a recomputation that begins further in than its forward did, with less to go by."""
        if torch.compiler.is_compiling():
            return
        if not in_backward():
            self._begun_at.add(outermost.module)
        elif outermost.module not in self._begun_at:
            raise NoiseError(
                "a recomputation must hold the whole call that was noised, or nothing of its embedding; got one that "
                f"begins at {type(outermost.module).__name__}, without what the model around it was given. Checkpoint "
                "the layers above the embedding, as gradient_checkpointing_enable() does, or the whole model's call."
            )

    def next_draw(self) -> int:
        """The exposure of the forward that begins: what `set_epoch` said, else a number from torch's generator."""
        told = int(self._told)
        return new_draw(self.settings.alpha) if told == RANDOM_DRAW else told

    def _running_stack(self, calls: Calls, embedding: nn.Module) -> int:
        candidates = [i for i, stack in enumerate(self._stacks) if stack.embedding is embedding]
        if len(candidates) == 1:
            return candidates[0]
        for call in reversed(calls.open):
            for i in candidates:
                if self._stacks[i].module is call.module:
                    return i
        return candidates[0]

    def noise(self, embedded: Tensor, input_ids: Tensor, given: Given, *, draw: int, stack: int) -> Tensor:
        """What a stack's layers read: the embeddings with the noise of their documents in them, in place if possible.

        Args:
            embedded: What the embedding module returned, (B, T, D).
            input_ids: Token ids (B, T).
            given: What the model was told of its documents.
            draw: The exposure.
            stack: Index of the stack.
        """
        part = self._stacks[stack]
        settings = dataclasses.replace(self.settings, seed=part.seed(self.settings.seed))
        share, input_ids, given = self._ranks.read(embedded, input_ids, given, draw, part.embedding)
        may_read = self._may_read(input_ids.device)
        layout = layout_of(given, part, input_ids, may_read=may_read)
        self._ranks.refuse_parts(layout, given, may_read=may_read)
        noise = token_noise(
            layout,
            token_keys(layout, input_ids=input_ids, keys=given.document_keys),
            settings,
            alpha=self.alpha,
            width=share.width,
            draw=draw,
            chosen=chosen_tokens(settings.positions, given, part, input_ids),
            multiplier=part.multiplier,
        )
        noised, squares, noise, layout = self._ranks.add(embedded, share, noise, layout)
        if self._counts():
            self.meter.record(squares, layout, noise.noised, unit_norm=settings.unit_norm * part.multiplier)
        return noised

    def _counts(self) -> bool:
        return not self._num_uncounted and not in_backward()

    def _may_read(self, device: torch.device) -> bool:
        """Whether to look at a batch's values: always on the CPU, elsewhere once, because the host waits for it."""
        is_first = device not in self._read
        self._read.add(device)
        return is_first or device.type == "cpu"


def _refuse_transformers(embedding: nn.Module) -> None:
    if "neftune_noise_alpha" in vars(embedding):
        raise ConfigError(
            "a model takes one noise at a time, got ours and transformers' neftune_noise_alpha on one embedding. "
            "Remove neftune_noise_alpha from the training arguments."
        )
