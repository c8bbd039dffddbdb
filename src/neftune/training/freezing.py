"""Parts of a model that are not trained: embeddings, head, attention, MLPs, norms."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from neftune.errors import ConfigError
from neftune.training.regularizers.places import is_attention, is_norm, layers_of


@contextmanager
def frozen(model: nn.Module, parts: Sequence[str]) -> Iterator[None]:
    """These parts are not trained in this block; adapters on them neither.

    Args:
        model: Its parameters' `requires_grad` come back as they were.
        parts: Of "embeddings" (tokens and positions), "head", "attention", "mlp" (all of a layer that is neither
            attention nor norm) and "norms".

    Raises:
        ConfigError: The model has no such part, shares its weights with a part that is to train, or nothing is left.
    """
    by_part = parameters_by_part(model) if parts else {}
    for part in parts:
        _check_part(model, part, parts, by_part)
    chosen = {id(one): one for part in parts for one in by_part[part]}
    before = {one: one.requires_grad for one in chosen.values()}
    for one in before:
        one.requires_grad_(False)
    try:
        if parts and not any(one.requires_grad for one in model.parameters()):
            raise ConfigError(f"something must be left to train, train.freeze freezes all of it: {list(parts)}.")
        yield
    finally:
        for one, required in before.items():
            one.requires_grad_(required)


def parameters_by_part(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of every part; those of norms inside attention are in both."""
    found: dict[str, list[nn.Parameter]] = {part: [] for part in ("embeddings", "head", "attention", "mlp", "norms")}
    layers = layers_of(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if is_norm(module):
            found["norms"] += module.parameters()
        elif isinstance(module, nn.Embedding) and id(module) not in inside:
            found["embeddings"] += module.parameters()
        if is_attention(module):
            found["attention"] += module.parameters()
    elsewhere = {id(one) for part in ("norms", "attention") for one in found[part]}
    found["mlp"] = [one for layer in layers for one in layer.parameters() if id(one) not in elsewhere]
    of_model: Any = model
    found["embeddings"] += of_model.get_input_embeddings().parameters()
    head = of_model.get_output_embeddings()
    found["head"] += head.parameters() if head is not None else ()
    return found


def _check_part(model: nn.Module, part: str, parts: Sequence[str], by_part: dict[str, list[nn.Parameter]]) -> None:
    if not by_part[part]:
        raise ConfigError(f"train.freeze needs parts of the model, {type(model).__name__} has no {part}. Leave it out.")
    for other in {"embeddings", "head"} - {part} - set(parts):
        shared = {id(one) for one in by_part[part]} & {id(one) for one in by_part[other]}
        if part in ("embeddings", "head") and shared:
            raise ConfigError(
                f"freezing the {part} of this {type(model).__name__} freezes its {other} too: they are one matrix "
                f"(tie_word_embeddings). Set train.freeze to hold both, embeddings and head, or take a model that does "
                "not tie them."
            )
