"""What any pipeline really adds to a model's token embeddings, measured from outside; nothing is changed.

# B rows, T positions in a row, D width
"""

import contextlib
import math
import sys
from collections.abc import Generator
from functools import partial
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from neftune.errors import ConfigError, NoiseError
from neftune.noise.calls import Calls, ThreadCalls, positional_parameters
from neftune.noise.findings import PHASES, AuditResult, Phase
from neftune.noise.hooks import Hook, hook_owner
from neftune.noise.measuring import Tally, clean_embeddings, documents_of
from neftune.noise.phases import gradients_wanted, in_backward
from neftune.noise.settings import NoiseSettings, check_alpha
from neftune.noise.stacks import Stack, ancestors, find_stacks
from neftune.noise.tables import Embeddings


def audit(
    subject: object,
    alpha: float | None = None,
    *,
    every: int = 1,
    max_documents: int | None = None,
    embeddings: Embeddings | None = None,
) -> "Audit":
    """Watch what noise a model's documents really get, whoever adds it, until the audit is detached.

    Works with transformers' ``neftune_noise_alpha``, with this package's noise, with noise of your own, and with none::

        with neftune.audit(trainer) as audit:
            trainer.train()
        print(audit.result())

    Each document's noise is the embedding's output minus what the embedding's class computes for the same ids. It is
    given as the alpha that would explain it: its RMS over the document's tokens times sqrt(3 L d), over m. No random
    number is drawn, and training is the same bit for bit; off the CPU each measured pass waits for the device once.

    Args:
        subject: A model, wrapped or not; or a trainer, whose ``model`` is watched.
        alpha: The nominal scale to compare with, > 0; None reads it off the trainer or the noise on the model.
        every: Measure one of so many forward passes (each phase and stack counts its own).
        max_documents: Stop measuring a stack's phase after so many documents; None measures all.
        embeddings: The token embeddings, where ``get_input_embeddings()`` does not give them, as in `attach`.

    Returns:
        The audit, also a context manager that detaches on exit.

    Raises:
        ConfigError: A setting is out of range, or no alpha is given and none can be read.
        NoiseError: No token embedding is found.
    """
    model = subject if isinstance(subject, nn.Module) else getattr(subject, "model", None)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"audit takes a model or a trainer that has one, got {type(subject).__name__}. Pass the model."
        )
    for name, value in (("every", every), ("max_documents", 1 if max_documents is None else max_documents)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}. Use 1 to measure everything.")
    stacks = find_stacks(model, embeddings)
    nominal = check_alpha(_nominal_alpha(subject, stacks) if alpha is None else alpha)
    if not nominal:
        raise ConfigError(
            "an audit compares with a nominal alpha > 0, got 0. Pass the alpha that the noise is meant to have, "
            "audit(model, alpha=5), also where the pipeline has none."
        )
    return Audit(model, stacks, nominal, every=every, max_documents=max_documents)


def _nominal_alpha(subject: object, stacks: tuple[Stack, ...]) -> float:
    """The alpha that a trainer's arguments or callbacks, or the noise on a model, say.

    Raises:
        ConfigError: None of them says any.
    """
    arguments, handler = getattr(subject, "args", None), getattr(subject, "callback_handler", None)
    alphas: list[Any] = [getattr(arguments, "neftune_noise_alpha", None)]
    for callback in cast(list[Any], getattr(handler, "callbacks", [])):
        settings = getattr(callback, "settings", None)
        alphas.append(settings.alpha if isinstance(settings, NoiseSettings) else None)
    for stack in stacks:
        alphas += [
            getattr(stack.embedding, "neftune_noise_alpha", None),
            getattr(getattr(hook_owner(stack.embedding), "settings", None), "alpha", None),
        ]
    for alpha in alphas:
        if alpha is not None:
            return float(alpha)
    raise ConfigError(
        f"an audit needs the nominal alpha to compare with; {type(subject).__name__} names none. "
        "Pass it: audit(model, alpha=5)."
    )


class _Embedded(NamedTuple):
    """Token ids, (B, T), and what their embedding's class makes of them, (B, T, D)."""

    input_ids: Tensor
    clean: Tensor


class Audit:
    """The observer of one model. Made by `audit`.

    Args:
        model: Watched from now on.
        stacks: Where it embeds its tokens.
        alpha: Nominal scale, > 0.
        every: One of so many passes is measured.
        max_documents: Per stack and phase; None for all.
    """

    def __init__(
        self, model: nn.Module, stacks: tuple[Stack, ...], alpha: float, *, every: int, max_documents: int | None
    ) -> None:
        self.alpha = alpha
        self._every = every
        self._limit = math.inf if max_documents is None else max_documents
        self._threads = ThreadCalls()
        self._stacks = stacks
        self._tallies: dict[tuple[Stack, Phase], Tally] = {}
        self._expected: dict[nn.Module, _Embedded] = {}
        self._outside: dict[nn.Module, _Embedded] = {}
        self._removables = self._hook(model)

    @property
    def _calls(self) -> Calls:
        return self._threads.calls

    def detach(self) -> None:
        """Stop watching; the model is as it was. A second call does nothing."""
        for removable in self._removables:
            removable.remove()
        self._removables = []
        self._expected, self._outside = {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def result(self) -> AuditResult:
        """What was seen so far; also after `detach`.

        Raises:
            NoiseError: No forward pass was seen.
        """
        if not self._tallies:
            raise NoiseError(
                "an audit needs forward passes of the model it watches, got none. Call the model (model(...), not "
                "model.forward(...)) while the audit is on; torch.compile hides it: audit before compiling."
            )
        findings = [
            self._tallies[stack, phase].finding(stack.role, phase)
            for stack in self._stacks
            for phase in PHASES
            if (stack, phase) in self._tallies
        ]
        return AuditResult(self.alpha, tuple(findings))

    def _hook(self, model: nn.Module) -> list[Any]:
        # Hooks of a copy do nothing; owner None leaves the question who noises a module to its noise.
        removables: list[Any] = []
        for module in ancestors(model, self._stacks):
            known = vars(module).get("forward"), positional_parameters(module)
            enter = Hook(partial(self._enter, known), owner=None)
            leave = Hook(self._leave, owner=None)
            removables.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            removables.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        for embedding in dict.fromkeys(stack.embedding for stack in self._stacks):
            after = embedding.register_forward_hook(Hook(self._compare, owner=None))
            before = Hook(partial(self._expect, after.id), owner=None)
            removables += [after, embedding.register_forward_pre_hook(before, with_kwargs=True)]
        self._leads_to = ancestors(model, self._stacks)
        return removables

    def _enter(
        self,
        known: tuple[object, tuple[str, ...]],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if not torch.compiler.is_compiling():
            forward, parameters = known
            if vars(module).get("forward") is not forward:
                parameters = positional_parameters(module)
            frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
            self._calls.enter(module, parameters, args=args, given=kwargs, frame=frame)

    def _leave(self, module: nn.Module, args: object, kwargs: object, result: object) -> None:
        if torch.compiler.is_compiling():
            return
        is_outermost = bool(self._calls.open) and self._calls.open[0].module is module
        if is_outermost and result is not None and not in_backward():
            for stack in self._leads_to[module].difference(self._calls.open[0].forward.reached):
                self._compare_given(stack)
        self._calls.leave(module)

    def _expect(self, hook_id: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the embedding runs: what it would give by itself."""
        self._expected.pop(module, None)
        if torch.compiler.is_compiling() or in_backward():
            return
        # torch lists the hooks only after the forward: with this, those registered in the meantime come before ours.
        hooks: Any = vars(module)["_forward_hooks"]
        hooks.move_to_end(hook_id)
        input_ids: Any = next(iter((*args, *kwargs.values())), None)
        stack = self._running_stack(module) if self._calls.open else None
        # A single id, and a second look-up in the same table, are no text.
        if getattr(input_ids, "ndim", 0) == 0 or (stack is not None and not self._calls.is_text(stack)):
            return
        if stack is not None:
            self._calls.open[0].forward.reached.append(stack)
            if not self._tally(stack).wants(self._every, self._limit):
                return
        with self._noting(stack):
            self._expected[module] = _Embedded(input_ids, clean_embeddings(module, args, kwargs))

    def _compare(self, module: nn.Module, args: object, output: Tensor) -> None:
        """After the embedding and every other hook of it: what it gave."""
        expected = self._expected.pop(module, None)
        if expected is None:
            return
        if self._calls.open:
            self._measure(self._running_stack(module), expected, output)
        else:
            self._outside[module] = expected

    def _compare_given(self, stack: Stack) -> None:
        """At the end of a forward that did not call a stack's embedding: the embeddings that it was given instead."""
        given = self._calls.anywhere("decoder_inputs_embeds" if stack.role == "decoder" else "inputs_embeds")
        if given is None and stack.role == "encoder" and self._calls.anywhere("encoder_outputs") is not None:
            return
        tally, expected = self._tally(stack), self._outside.pop(stack.embedding, None)
        if not tally.wants(self._every, self._limit):
            return
        if given is None:
            tally.unreadable["its embedding was not called"] += 1
        elif expected is None or expected.clean.shape != given.shape:
            tally.unreadable["inputs_embeds was given and the token ids behind it are not known"] += 1
        else:
            self._measure(stack, expected, given)

    def _measure(self, stack: Stack, embedded: _Embedded, output: Tensor) -> None:
        with self._noting(stack):
            input_ids, clean = (one if one.ndim > 1 + place else one[None] for place, one in enumerate(embedded))
            documents = documents_of(self._calls, stack, input_ids)
            unit = self.alpha * stack.multiplier
            self._tally(stack).add(clean, output.detach().reshape(clean.shape), documents, unit=unit)

    @contextlib.contextmanager
    def _noting(self, stack: Stack | None) -> Generator[None]:
        """Counts what cannot be read with its reason: an observer must not stop what it observes."""
        try:
            yield
        except Exception as error:
            if stack is not None:
                reason = str(error).split(". ")[0] if isinstance(error, NoiseError) else type(error).__name__
                self._tally(stack).unreadable[reason] += 1

    def _running_stack(self, embedding: nn.Module) -> Stack:
        candidates = [stack for stack in self._stacks if stack.embedding is embedding]
        inner = [stack for call in reversed(self._calls.open) for stack in candidates if stack.module is call.module]
        return inner[0] if inner else candidates[0]

    def _tally(self, stack: Stack) -> Tally:
        """The tally of the stack in the phase that is running."""
        if not self._calls.open[0].module.training:
            phase: Phase = "eval"
        else:
            phase = "training" if gradients_wanted() else "no_grad"
        return self._tallies.setdefault((stack, phase), Tally())
