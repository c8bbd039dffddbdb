"""Where a transformer drops: its layers, their branches, the rates that it reads while it trains."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import nn

from neftune.errors import ConfigError
from neftune.training.randomness import preserved_random_state

ATTENTION_RATES = ("attention_dropout", "attn_dropout", "attention_probs_dropout")
"""Names under which attention modules hold their rate, as a number or as an nn.Dropout."""

RATES = ("dropout", "hidden_dropout", "resid_dropout")
"""Names under which other modules hold theirs as a number."""


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The model's layers in order; [] where it is not built of transformers' layers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def is_attention(module: nn.Module) -> bool:
    """Whether this is a layer's attention, by the name of its class."""
    return "Attention" in type(module).__name__


def is_norm(module: nn.Module) -> bool:
    """Whether this is a normalisation, by the name of its class."""
    return "Norm" in type(module).__name__


@contextmanager
def attention_rates(model: nn.Module, rate: float) -> Iterator[int]:
    """Every attention drops its weights at this rate; how many places that are."""
    with _set_rates(model, rate, _attention_places(model)) as count:
        yield count


@contextmanager
def residual_rates(model: nn.Module, rate: float) -> Iterator[int]:
    """The model's own dropout outside attention has this rate; how many places that are, 0 where it has none."""
    with _set_rates(model, rate, _residual_places(model)) as count:
        yield count


def _attention_places(model: nn.Module) -> list[tuple[Any, str]]:
    places: list[tuple[Any, str]] = []
    for module in model.modules():
        if is_attention(module):
            # OPT's attention calls its rate "dropout".
            names = [name for name in ATTENTION_RATES if name in _rates(module)] or ["dropout"]
            places += [(module, name) for name in names if name in _rates(module)]
    return places


def _residual_places(model: nn.Module) -> list[tuple[Any, str]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = {id(one) for module in model.modules() if isinstance(module, BaseTunerLayer) for one in module.modules()}
    places: list[tuple[Any, str]] = []
    for module in model.modules():
        if id(module) in adapters:
            continue
        known = _rates(module)
        attends = is_attention(module)
        for name, value in known.items():
            is_module = isinstance(value, nn.Dropout)
            of_attention = name in ATTENTION_RATES or (attends and name == "dropout" and not is_module)
            if not of_attention and (is_module or name in RATES):
                places.append((module, name))
    return places


def _rates(module: nn.Module) -> dict[str, Any]:
    """What a module itself holds that may be a rate: numbers, and modules that drop."""
    held = {name: value for name, value in vars(module).items() if isinstance(value, float | int)}
    drops = {name: child for name, child in module.named_children() if isinstance(child, nn.Dropout)}
    return {**held, **drops}


@contextmanager
def _set_rates(model: nn.Module, rate: float, places: list[tuple[Any, str]]) -> Iterator[int]:
    before: list[tuple[Any, str, float]] = []
    for module, name in places:
        value = getattr(module, name)
        holder, attribute = (value, "p") if isinstance(value, nn.Dropout) else (module, name)
        before.append((holder, attribute, getattr(holder, attribute)))
        setattr(holder, attribute, rate)
    try:
        yield len(places)
    finally:
        for holder, attribute, value in reversed(before):
            setattr(holder, attribute, value)


@contextmanager
def hooked(model: nn.Module, rate: float) -> Iterator[int]:
    """Dropout on what enters the first layer and on what every branch adds to the residual stream; how many places.

    The first layer's input is dropped behind the noise, as GPT-2 does with its embeddings.
    """
    layers = layers_of(model)
    hooks = [layers[0].register_forward_pre_hook(_dropped_input(rate), with_kwargs=True)] if layers else []
    for layer in layers:
        branches = [child for child in layer.children() if not is_norm(child) and any(True for _ in child.parameters())]
        hooks += [branch.register_forward_hook(_dropped_output(rate)) for branch in branches]
    try:
        yield len(hooks)
    finally:
        for hook in hooks:
            hook.remove()


def _dropped_input(rate: float) -> Callable[..., Any]:
    def drop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (nn.functional.dropout(args[0], rate, module.training), *args[1:]), kwargs
        states = nn.functional.dropout(kwargs["hidden_states"], rate, module.training)
        return args, {**kwargs, "hidden_states": states}

    return drop


def _dropped_output(rate: float) -> Callable[..., Any]:
    def drop(module: nn.Module, args: object, output: Any) -> Any:
        if isinstance(output, tuple):
            rest = cast(tuple[Any, ...], output)
            return nn.functional.dropout(rest[0], rate, module.training), *rest[1:]
        return nn.functional.dropout(output, rate, module.training)

    return drop


def require_effect(model: nn.Module, name: str, at_rate: Callable[[float], AbstractContextManager[int]]) -> None:
    """Refuse a dropout that is set and changes nothing in a training forward.

    Args:
        model: The model.
        name: The regulariser.
        at_rate: Puts a rate on the model.

    Raises:
        ConfigError: With rate 0 and with rate 1/2 the model says the same from one seed.
    """
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    outputs: list[torch.Tensor] = []
    count = 0
    try:
        with preserved_random_state(), torch.no_grad():
            model.train()
            for rate in (0.0, 0.5):
                torch.manual_seed(0)
                with at_rate(rate) as count:
                    ids = torch.arange(1, 9, device=device)[None]
                    outputs.append(model(input_ids=ids, use_cache=False).logits)
    finally:
        for module, training in modes.items():
            module.training = training
    if not count or torch.equal(*outputs):
        raise ConfigError(
            f"train.regularizers.{name} must take effect, {type(model).__name__} has no place for it that does "
            f"({count} found). Set it to 0 for this model."
        )
