"""Which module of a model holds its token embedding table, and what it multiplies the table with."""

import difflib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from neftune.errors import NoiseError

Embeddings = nn.Module | str | Sequence[nn.Module | str]
"""Token embeddings as a caller names them: modules, dotted names inside the model, or several of them."""

_SHOWN = 8
_PROBED, _TOLERANCE = 8, 0.02


def input_embedding(model: nn.Module) -> nn.Module | None:
    """The module that ``get_input_embeddings()`` gives, if it holds a table of one vector per token; else None."""
    getter: Any = getattr(model, "get_input_embeddings", None)
    try:
        embedding = getter() if callable(getter) else None
    except (NotImplementedError, AttributeError):
        return None
    return embedding if isinstance(embedding, nn.Module) and is_table(embedding) else None


def named_embeddings(model: nn.Module, named: Embeddings) -> tuple[nn.Module, ...]:
    """The modules that a caller names as token embeddings, in their order and each once.

    Args:
        model: The model that holds them.
        named: Modules, dotted names as in ``model.named_modules()``, or a sequence of them.

    Raises:
        NoiseError: A name or module is not in the model, or is no token embedding; or there is none.
    """
    several: tuple[nn.Module | str, ...] = (named,) if isinstance(named, nn.Module | str) else tuple(named)
    if not several:
        raise NoiseError("embeddings must name at least one token embedding, got none. Name one, or leave it out.")
    return tuple(dict.fromkeys(_named(model, one) for one in several))


def is_table(module: nn.Module) -> bool:
    """Whether a module holds a table of one vector per token, however it is stored: sharded, partitioned, quantised."""
    if isinstance(module, nn.Linear):
        return False
    # A partitioned or flattened table shows its shape in these two alone.
    if all(isinstance(getattr(module, name, None), int) for name in ("num_embeddings", "embedding_dim")):
        return True
    return len(_shape(module)) == 2


def is_quantised(weight: Tensor) -> bool:
    """Whether a table's weight holds codes, of which the numbers follow by a look-up alone."""
    # torchao's tensors say that they are floating point, and compute nothing.
    return not weight.is_floating_point() or type(weight).__module__.startswith("torchao.")


def embedding_multiplier(embedding: nn.Module) -> float:
    """m: the factor that the embedding module applies to its table's rows (Gemma's and BART's ``embed_scale``).

    Raises:
        NoiseError: The module does something else to them, such as to normalise each.
    """
    multiplier = 1.0
    for module in embedding.modules():
        scale: Any = getattr(module, "scalar_embed_scale", None)
        scale = getattr(module, "embed_scale", None) if scale is None else scale
        if scale is not None:
            multiplier = float(scale)
            break
    if not _is_factor(embedding, multiplier):
        raise NoiseError(
            "alpha is the noise relative to the embedding table, so an embedding must give its table's rows times a "
            f"known factor, got {type(embedding).__name__}, which gives other numbers than {multiplier:g} times its "
            "rows. Perturb what it gives yourself (neftune.perturb)."
        )
    return multiplier


def _is_factor(embedding: nn.Module, multiplier: float) -> bool:
    """Whether an embedding with a forward of its own gives its rows times the factor; True where it cannot be tried."""
    weight: Any = getattr(embedding, "weight", None)
    # A wrapper (an adapter's) adds more to its rows than a factor; what it wraps is what noise is relative to.
    is_single = isinstance(embedding, nn.Embedding) or not list(embedding.children())
    has_own = is_single and type(embedding).forward is not nn.Embedding.forward
    if not has_own or type(weight) is not nn.Parameter or weight.ndim != 2 or weight.is_meta or is_quantised(weight):
        return True
    ids = torch.arange(min(_PROBED, len(weight)), device=weight.device)
    # No hook may take part, and no random draw.
    with torch.no_grad():
        given: Any = type(embedding).forward(cast(Any, embedding), ids)
    if not isinstance(given, torch.Tensor):
        return True
    expected = weight.detach()[ids] * multiplier
    return bool((given - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def check_lookup(input_ids: Tensor, output: object) -> None:
    """Refuse what no table of one vector per token does.

    Args:
        input_ids: What it was called with; must be integers (B, T) or (T,).
        output: What it returned; must be floating point (B, T, D) or (T, D).

    Raises:
        NoiseError: One of them is something else.
    """
    is_ids = input_ids.ndim in (1, 2) and not input_ids.is_floating_point()
    fits = isinstance(output, Tensor) and output.is_floating_point() and output.shape[:-1] == input_ids.shape
    if not is_ids or not fits:
        got = f"{output.dtype} of shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise NoiseError(
            "a token embedding must turn ids of shape (rows, positions) or (positions,) into one vector each, got "
            f"{input_ids.dtype} of shape {list(input_ids.shape)} turned into {got}. Name the embedding that does "
            "(embeddings=), or perturb the embeddings yourself (neftune.perturb)."
        )


def _shape(module: nn.Module) -> tuple[int, ...]:
    weight: Any = getattr(module, "weight", None)
    # DeepSpeed's ZeRO-3 keeps a partitioned parameter's own shape here.
    shape: Any = getattr(weight, "ds_shape", getattr(weight, "shape", ()))
    return tuple(shape)


def _named(model: nn.Module, one: nn.Module | str) -> nn.Module:
    module = _find(model, one) if isinstance(one, str) else one
    if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise NoiseError(
            f"embeddings must be modules of the model or their dotted names, got {type(module).__name__}. "
            "Pass model.your_embedding, or its name as model.named_modules() gives it."
        )
    if all(module is not inside for inside in model.modules()):
        raise NoiseError(
            f"embeddings must be inside the model, got {type(module).__name__} that {type(model).__name__} does not "
            f"hold. {_candidates(model)}"
        )
    if not is_table(module):
        raise NoiseError(
            f"embeddings must be token embeddings, with a 2-D weight of one vector per token; got "
            f"{type(module).__name__} with {_weight_words(module)}. {_candidates(model)}"
        )
    return module


def _find(model: nn.Module, name: str) -> nn.Module:
    modules = {**_modules(unwrapped(model)), **_modules(model)}
    if name in modules and name:
        return modules[name]
    close = difflib.get_close_matches(name, modules, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else _candidates(model)
    raise NoiseError(f"embeddings must name a module of {type(model).__name__}, got {name!r}. {hint}")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers that keep it as ``module`` (data parallel ones)."""
    while not hasattr(model, "get_input_embeddings") and isinstance(getattr(model, "module", None), nn.Module):
        model = model.module  # pyright: ignore[reportAssignmentType]
    return model


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return dict(cast(Any, model).named_modules(remove_duplicate=False))


def _candidates(model: nn.Module) -> str:
    names = [name for name, module in _modules(model).items() if name and is_table(module)]
    if not names:
        return f"{type(model).__name__} holds no token embedding; perturb the embeddings yourself (neftune.perturb)."
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{type(model).__name__} holds {', '.join(names[:_SHOWN])}{more}."


def _weight_words(module: nn.Module) -> str:
    shape = _shape(module)
    return f"a weight of shape {list(shape)}" if shape else "no weight"
