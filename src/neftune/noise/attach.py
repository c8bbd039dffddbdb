"""The noise onto a model, as hooks that leave no trace when they go."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Self

from torch import Tensor, nn

from neftune.errors import ConfigError, NoiseError
from neftune.noise.calls import DOCUMENT_KEYS, Call, Calls, layout_of, positional_parameters
from neftune.noise.hooks import Hook, hook_owner
from neftune.noise.meter import Meter
from neftune.noise.perturb import add_noise, make_noise, new_draw, token_keys
from neftune.noise.phases import gradients_wanted, in_backward
from neftune.noise.settings import Match, NoiseSettings
from neftune.noise.stacks import Stack, ancestors, find_stacks
from neftune.records import RealisedNoise

_EMBEDDED = ("inputs_embeds", "decoder_inputs_embeds")


def attach(
    model: nn.Module, alpha: float = 5.0, *, distribution: str = "uniform", match: Match = "rms", seed: int = 0
) -> "NoiseHandle":
    """The noise on every training forward of a model, until the handle is detached.

    A forward trains when the model is in training mode and gradients are on. Without a trainer that tells the epoch,
    each one draws new noise through a single integer of torch's CPU generator; at alpha = 0 it draws nothing, so that
    alpha = 0 equals no attachment bit for bit.

    Args:
        model: A model with ``get_input_embeddings()``; wrapped (PEFT, data parallel) or not.
        alpha: The paper's scale, >= 0 (paper: 5, 10 or 15).
        distribution: A registered distribution.
        match: "rms" brings every distribution to the uniform's RMS, "paper" uses it unscaled.
        seed: Chooses the stream of noise.

    Returns:
        The handle, also a context manager that detaches on exit.

    Raises:
        ConfigError: A setting is out of range, or transformers' own noise is on this model too.
        NoiseError: No token embedding is found, or the model carries noise already.

    Source: arXiv 2310.05914, algorithm 1.
    """
    return NoiseHandle(model, NoiseSettings(alpha, distribution, match, seed))


class NoiseHandle:
    """The noise on one model. Made by `attach`.

    Args:
        model: The model.
        settings: What noise.
        is_alive: Asked at each training forward; once it says no the noise detaches itself.
    """

    def __init__(
        self, model: nn.Module, settings: NoiseSettings, *, is_alive: Callable[[], bool] | None = None
    ) -> None:
        self.settings = settings
        self.meter = Meter()
        self._is_alive = is_alive
        self._removables: list[Any] = []
        self._epoch: int | None = None
        self._num_pauses = 0
        self._calls = Calls()
        self._stacks = find_stacks(model)
        self._leads_to = ancestors(model, self._stacks)
        self._refuse_second(model)
        self._removables = self._hook()

    @property
    def alpha(self) -> float:
        """The paper's scale."""
        return self.settings.alpha

    def is_on(self) -> bool:
        """Whether the noise is on the model. Noise that has outlived what it was set up for is taken off here."""
        # A recomputation belongs to a forward that was asked already, and may run on a thread of autograd's.
        if self._is_alive is not None and not in_backward() and not self._is_alive():
            self.detach()
        return bool(self._removables)

    def detach(self) -> None:
        """Take the noise off the model, which is then exactly as it was. A second call does nothing."""
        for removable in self._removables:
            removable.remove()
        self._removables = []
        self._is_alive = None
        self._calls = Calls()

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

    def set_epoch(self, epoch: int) -> None:
        """Make the epoch the exposure: noise depends on seed, document and epoch alone, not on torch's generator."""
        self._epoch = int(epoch)

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
            known = vars(module).get("forward"), positional_parameters(module)
            enter = Hook(partial(self._enter, known), owner=self)
            leave = Hook(partial(self._leave, stacks), owner=self)
            removables.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            removables.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        for embedding in dict.fromkeys(stack.embedding for stack in self._stacks):
            noise = Hook(partial(self._noise, embedding), owner=self)
            removables.append(embedding.register_forward_hook(noise, with_kwargs=True))
        return removables

    def _enter(
        self,
        known: tuple[object, tuple[str, ...]],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # A trainer may send a method of its own through the model's forward for one call (TRL's DistillationTrainer).
        forward, parameters = known
        if vars(module).get("forward") is not forward:
            parameters = positional_parameters(module)
        # Above this function and `Hook.__call__` lies the frame of torch that calls the module.
        frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
        self._calls.enter(module, parameters, args=args, given=kwargs, frame=frame)
        if DOCUMENT_KEYS not in kwargs:
            return None
        return args, {name: value for name, value in kwargs.items() if name != DOCUMENT_KEYS}

    def _leave(self, stacks: frozenset[Stack], module: nn.Module, args: object, kwargs: object, result: object) -> None:
        had_embeddings = any(self._calls.anywhere(name) is not None for name in _EMBEDDED)
        call = self._calls.leave(module)
        # After an exception there is no result, and nothing to add to what it says.
        if call is not None and not self._calls.open and result is not None and self._trains(module):
            self._check_reached(call, stacks, had_embeddings)

    def _check_reached(self, call: Call, stacks: frozenset[Stack], had_embeddings: bool) -> None:
        missed = [stack for stack in self._stacks if stack in stacks - call.forward.reached]
        if not missed:
            self.meter.num_forwards += not in_backward()
            return
        names = ", ".join(f"{type(stack.module).__name__}'s {type(stack.embedding).__name__}" for stack in missed)
        remedy = (
            "inputs_embeds was given instead: give input_ids, or noise the embeddings yourself (neftune.perturb)"
            if had_embeddings
            else "if the embedding was replaced, or is in eval mode alone, attach again after that"
        )
        raise NoiseError(
            f"noise of alpha={self.alpha} must reach {names} in every training forward; {type(call.module).__name__} "
            f"was run without it. Remedy: {remedy}; for a pass without noise use paused()."
        )

    def _trains(self, module: nn.Module) -> bool:
        return module.training and not self._num_pauses and gradients_wanted() and self.is_on()

    def _noise(
        self, embedding: nn.Module, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        if not self._trains(module):
            return None
        _refuse_transformers(module)
        if not self._calls.open:
            raise NoiseError(
                "the embedding must be called by the attached model's own forward, it was called on its own while "
                "training. Call model(...), not model.forward(...); to embed tokens yourself use paused() and "
                "neftune.perturb."
            )
        stack = self._running_stack(embedding)
        input_ids = (*args, *kwargs.values())[0]
        # A single id is how models look for placeholders in embeddings that were given to them.
        if input_ids.ndim == 0 or not self._calls.is_text(stack):
            return None
        forward = self._calls.open[0].forward
        forward.reached.add(stack)
        if forward.draw is None:
            forward.draw = new_draw(self.alpha) if self._epoch is None else self._epoch
        _check_ids(input_ids, output)
        rows = input_ids if input_ids.ndim == 2 else input_ids[None]
        ids = self._calls.text_ids(stack, rows)
        return self._add(stack, ids, output.view(*ids.shape, -1), forward.draw).view_as(output)

    def _running_stack(self, embedding: nn.Module) -> Stack:
        candidates = [stack for stack in self._stacks if stack.embedding is embedding]
        if len(candidates) == 1:
            return candidates[0]
        inner = [stack for call in reversed(self._calls.open) for stack in candidates if stack.module is call.module]
        return inner[0] if inner else candidates[0]

    def _add(self, stack: Stack, input_ids: Tensor, output: Tensor, draw: int) -> Tensor:
        layout = layout_of(self._calls, stack, input_ids)
        keys = token_keys(layout, input_ids=input_ids, keys=self._calls.anywhere(DOCUMENT_KEYS))
        settings = dataclasses.replace(self.settings, seed=stack.seed(self.settings.seed))
        noise = make_noise(layout, keys, settings, width=output.shape[-1], draw=draw, multiplier=stack.multiplier)
        if not in_backward():
            self.meter.record(noise, output, layout, unit_norm=settings.unit_norm * stack.multiplier)
        return add_noise(output, noise)


def _check_ids(input_ids: Tensor, output: object) -> None:
    is_ids = input_ids.ndim in (1, 2) and not input_ids.is_floating_point()
    fits = isinstance(output, Tensor) and output.is_floating_point() and output.shape[:-1] == input_ids.shape
    if not is_ids or not fits:
        got = f"{output.dtype} of shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise NoiseError(
            "a token embedding must turn ids of shape (rows, positions) or (positions,) into one vector each, got "
            f"{input_ids.dtype} of shape {list(input_ids.shape)} turned into {got}. Name the embedding that does "
            "(embeddings=), or perturb the embeddings yourself (neftune.perturb)."
        )


def _refuse_transformers(embedding: nn.Module) -> None:
    if "neftune_noise_alpha" in vars(embedding):
        raise ConfigError(
            "a model takes one noise at a time, got ours and transformers' neftune_noise_alpha on one embedding. "
            "Remove neftune_noise_alpha from the training arguments."
        )
