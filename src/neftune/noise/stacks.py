"""Where a model embeds its tokens: one stack for a decoder, two for an encoder-decoder, or what the caller names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from neftune.errors import NoiseError
from neftune.noise.hashing import GOLDEN
from neftune.noise.tables import (
    Embeddings,
    embedding_multiplier,
    input_embedding,
    is_table,
    named_embeddings,
    unwrapped,
)

Role = Literal["only", "encoder", "decoder"]

_PLACEHOLDERS = tuple(f"{kind}_token_{end}" for kind in ("image", "video", "audio") for end in ("id", "index"))


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Layers that begin with an embedding of token ids.

    Attributes:
        module: The model, or its encoder or decoder.
        embedding: The module that turns token ids into vectors when this stack runs.
        role: Which stack it is.
        multiplier: m, what the embedding module multiplies its table with before it returns; 1 for most.
        pad_id: The id that pads, if the model's config (or, without one, the table's padding_idx) names it.
        eos_ids: The ids that end a sequence, as the model's config names them.
        placeholder_ids: The ids in whose places a model puts features of images, videos or sound.
        text_comes_first: Whether only the first look-up in a call is text, as in transformers' models.
        pad_is_padding: Whether ``pad_id`` alone marks padding, as a table's padding_idx does in a model without config.
        stream: Number of this stack's stream of noise.
        is_own: Whether ``module`` itself gives this embedding by ``get_input_embeddings()``.
    """

    module: nn.Module
    embedding: nn.Module
    role: Role
    multiplier: float
    pad_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    placeholder_ids: tuple[int, ...] = ()
    text_comes_first: bool = False
    pad_is_padding: bool = False
    stream: int = 0
    is_own: bool = False

    def seed(self, seed: int) -> int:
        """This stack's stream of noise: a decoder's is independent of its encoder's, even on equal tokens."""
        return seed + self.stream * GOLDEN

    def refuse_wrapped(self) -> None:
        """Refuse an embedding that was put inside another module since it was found.

        Raises:
            NoiseError: It was.
        """
        module: Any = self.module
        if self.is_own and module.get_input_embeddings() is not self.embedding:
            raise NoiseError(
                f"the noise must be on what {type(module).__name__} embeds with, got {type(self.embedding).__name__} "
                "that was wrapped since (by an adapter, which may scale it). Attach again after wrapping the model."
            )


def find_stacks(model: nn.Module, embeddings: Embeddings | None = None) -> tuple[Stack, ...]:
    """The stacks of a model, the input side first.

    Args:
        model: The model, wrapped (PEFT, data parallel) or not.
        embeddings: The token embeddings, where ``get_input_embeddings()`` does not give them: modules of the model,
            their dotted names, or several of them.

    Raises:
        NoiseError: The model has no token embedding that can be found, or holds none under a given name.
    """
    inner = unwrapped(model)
    if embeddings is None:
        return _own_stacks(inner)
    try:
        own = _own_stacks(inner)
    except NoiseError:
        own = ()
    found: list[Stack] = []
    for i, embedding in enumerate(named_embeddings(model, embeddings)):
        stacks = [stack for stack in own if stack.embedding is embedding]
        found += stacks or [_named_stack(inner, embedding, stream=len(own) + i)]
    return tuple(found)


def _named_stack(model: nn.Module, embedding: nn.Module, *, stream: int) -> Stack:
    """A stack of a table that the model does not give as its own: what it lies in tells whose lengths are its own."""
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        encoder, decoder = _part(model, "encoder"), _part(model, "decoder")
        in_encoder, in_decoder = embedding in set(encoder.modules()), embedding in set(decoder.modules())
        if in_encoder and not in_decoder:
            return _stack(model, encoder, embedding, role="encoder", stream=stream)
        if in_decoder and not in_encoder:
            return _stack(model, decoder, embedding, role="decoder", stream=stream)
    return _stack(model, model, embedding, role="only", stream=stream)


def _own_stacks(model: nn.Module) -> tuple[Stack, ...]:
    config: Any = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        return (_stack(model, model, _embedding(model), role="only"),)
    encoder, decoder = _part(model, "encoder"), _part(model, "decoder")
    second = _stack(model, decoder, _embedding(decoder), role="decoder", stream=1)
    # Encoders of sound and images embed no tokens, and say so.
    if input_embedding(encoder) is None and getattr(encoder, "main_input_name", "input_ids") != "input_ids":
        return (second,)
    return (_stack(model, encoder, _embedding(encoder), role="encoder"), second)


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


def _part(model: nn.Module, name: Literal["encoder", "decoder"]) -> nn.Module:
    getter: Any = getattr(model, f"get_{name}", None)
    part = getter() if callable(getter) else None
    if not isinstance(part, nn.Module) or part is model:
        raise NoiseError(
            f"an encoder-decoder must give its {name} by get_{name}(), {type(model).__name__} does not. "
            f"Define get_{name}() on the model."
        )
    return part


def _stack(model: nn.Module, module: nn.Module, embedding: nn.Module, *, role: Role, stream: int = 0) -> Stack:
    config: Any = getattr(model, "config", None)
    eos: Any = _configured(config, "eos_token_id")
    pad: Any = _configured(config, "pad_token_id")
    padding_idx: Any = getattr(embedding, "padding_idx", None)
    placeholders: Iterator[Any] = (getattr(config, name, None) for name in _PLACEHOLDERS)
    return Stack(
        module=module,
        embedding=embedding,
        role=role,
        multiplier=embedding_multiplier(embedding),
        pad_id=padding_idx if config is None else pad,
        eos_ids=() if eos is None else tuple(cast(list[int], eos)) if isinstance(eos, list | tuple) else (eos,),
        placeholder_ids=tuple(dict.fromkeys(token for token in placeholders if isinstance(token, int))),
        text_comes_first=config is not None,
        pad_is_padding=config is None and padding_idx is not None,
        stream=stream,
        is_own=input_embedding(module) is embedding,
    )


def _configured(config: object, name: str) -> object:
    """A config's value; that of the text model's config inside it comes first."""
    value = getattr(getattr(config, "text_config", None), name, None)
    return getattr(config, name, None) if value is None else value


def _embedding(module: nn.Module) -> nn.Module:
    embedding = input_embedding(module)
    if embedding is None and not hasattr(module, "get_input_embeddings"):
        # Older encoder-decoders (FSMT) keep their tables under transformers' usual name and do not give them.
        table: Any = getattr(module, "embed_tokens", None)
        embedding = table if isinstance(table, nn.Module) and is_table(table) else None
    if embedding is None:
        raise NoiseError(
            "the noise needs a token embedding, which get_input_embeddings() gives as a module with a 2-D weight; "
            f"{type(module).__name__} gives {_given(module)}. Name the embedding (embeddings=), define "
            "get_input_embeddings() on the model, or perturb the embeddings yourself (neftune.perturb)."
        )
    return embedding


def _given(module: nn.Module) -> str:
    getter: Any = getattr(module, "get_input_embeddings", None)
    try:
        return type(getter()).__name__ if callable(getter) else "nothing"
    except (NotImplementedError, AttributeError):
        return "nothing"
