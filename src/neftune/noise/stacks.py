"""Where a model embeds its tokens: one stack for a decoder, two for an encoder-decoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from neftune.errors import NoiseError
from neftune.noise.hashing import GOLDEN

Role = Literal["only", "encoder", "decoder"]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Layers that begin with an embedding of token ids.

    Attributes:
        module: The model, or its encoder or decoder.
        embedding: The module that turns token ids into vectors when this stack runs.
        role: Which stack it is.
        multiplier: m, what the embedding module multiplies its table with before it returns; 1 for most.
        pad_id: The id that pads a decoder's input, if the model's config names one.
        eos_ids: The ids that end a sequence, as the model's config names them.
    """

    module: nn.Module
    embedding: nn.Module
    role: Role
    multiplier: float
    pad_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def seed(self, seed: int) -> int:
        """This stack's stream of noise: a decoder's is independent of its encoder's, even on equal tokens."""
        return seed + GOLDEN if self.role == "decoder" else seed


def find_stacks(model: nn.Module) -> tuple[Stack, ...]:
    """The stacks of a model, the input side first.

    Raises:
        NoiseError: The model has no token embedding that can be found.
    """
    inner = _unwrap(model)
    config: Any = getattr(inner, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        return (_stack(inner, inner, "only"),)
    encoder, decoder = _part(inner, "encoder"), _part(inner, "decoder")
    return (_stack(inner, encoder, "encoder"), _stack(inner, decoder, "decoder"))


def ancestors(model: nn.Module, stacks: tuple[Stack, ...]) -> dict[nn.Module, frozenset[Stack]]:
    """Every module that a stack's tokens pass through on their way to its embedding, with the stacks it leads to.

    The model itself always leads to all stacks. Keys are in the order of the module tree.
    """
    found: dict[nn.Module, frozenset[Stack]] = {model: frozenset(stacks)}
    tree: Any = cast(Any, model).named_modules(remove_duplicate=False)
    for path, module in tree:
        for stack in stacks:
            if module is not stack.embedding:
                continue
            for above in _path_modules(model, path):
                found[above] = found.get(above, frozenset()) | {stack}
    # One embedding module may serve both stacks; each stack's own module leads to that stack alone.
    for stack in stacks:
        if stack.role != "only":
            found[stack.module] = frozenset({stack})
    return found


def _path_modules(model: nn.Module, path: str) -> Iterator[nn.Module]:
    names = path.split(".")
    for depth in range(1, len(names)):
        yield model.get_submodule(".".join(names[:depth]))


def _unwrap(model: nn.Module) -> nn.Module:
    """The model inside wrappers that keep it as ``module`` (data parallel ones)."""
    while not hasattr(model, "get_input_embeddings") and isinstance(getattr(model, "module", None), nn.Module):
        model = model.module  # pyright: ignore[reportAssignmentType]
    return model


def _part(model: nn.Module, name: Literal["encoder", "decoder"]) -> nn.Module:
    getter: Any = getattr(model, f"get_{name}", None)
    part = getter() if callable(getter) else None
    if not isinstance(part, nn.Module) or part is model:
        raise NoiseError(
            f"an encoder-decoder must give its {name} by get_{name}(), {type(model).__name__} does not. "
            f"Define get_{name}() on the model."
        )
    return part


def _stack(model: nn.Module, module: nn.Module, role: Role) -> Stack:
    embedding = _input_embedding(module)
    config: Any = getattr(model, "config", None)
    eos = getattr(config, "eos_token_id", None)
    return Stack(
        module=module,
        embedding=embedding,
        role=role,
        multiplier=embedding_multiplier(embedding),
        pad_id=getattr(config, "pad_token_id", None),
        eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,),  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    )


def _input_embedding(module: nn.Module) -> nn.Module:
    getter: Any = getattr(module, "get_input_embeddings", None)
    try:
        embedding = getter() if callable(getter) else None
    except (NotImplementedError, AttributeError):
        embedding = None
    weight: Any = getattr(embedding, "weight", None)
    if not isinstance(embedding, nn.Module) or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise NoiseError(
            f"the noise needs a token embedding, which get_input_embeddings() gives; {type(module).__name__} "
            f"gives {'nothing' if embedding is None else type(embedding).__name__}. "
            "Define get_input_embeddings() on the model, or perturb the embeddings yourself (neftune.perturb)."
        )
    return embedding


def embedding_multiplier(embedding: nn.Module) -> float:
    """m: the factor that the embedding module applies to its table's rows (Gemma's and BART's ``embed_scale``)."""
    for module in embedding.modules():
        scale: Any = getattr(module, "scalar_embed_scale", None)
        scale = getattr(module, "embed_scale", None) if scale is None else scale
        if scale is not None:
            return float(scale)
    return 1.0
