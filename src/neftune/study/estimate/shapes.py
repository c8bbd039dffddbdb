"""A model's sizes from its config alone: built without memory (torch's meta device), so 70B costs what 7B does."""

import contextlib
import functools
import warnings
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from neftune.config import DataConfig, ModelConfig
from neftune.errors import ModelError
from neftune.study.estimate.training_cost import Trained
from neftune.training.freezing import frozen
from neftune.training.models import MICROWORLD, quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's cost follows from; counts are exact.

    Attributes:
        name: Class of the model.
        parameters: All parameters, a tied output layer once, adapters included.
        trained: Those that are trained.
        adapters: Those of adapters.
        active: Weights that a token is multiplied with: every linear layer, the output layer too where it is tied; of
            experts the share that a token visits.
        frozen: Of the active ones of the base, those that need no gradient of their own.
        quantised: Weights that quantisation covers: linear layers but the output layer.
        quantised_rows: Their rows.
        sizes: Shapes of what is trained.
        head_trained: Whether the output layer is.
        layers, width, vocabulary: Blocks, hidden size, rows of the output layer.
        attention_width: Heads times their width.
        cache_width: Numbers kept per token and block while answering: keys and values.
        context: Longest input in tokens; None where the config sets none.
    """

    name: str
    parameters: int
    trained: int
    adapters: int
    active: int
    frozen: int
    quantised: int
    quantised_rows: int
    sizes: tuple[Trained, ...]
    head_trained: bool
    layers: int
    width: int
    vocabulary: int
    attention_width: int
    cache_width: int
    context: int | None


def model_shape(model: ModelConfig, data: DataConfig, freeze: Sequence[str] = ()) -> ModelShape:
    """The shape of a run's model.

    Args:
        model: Its path and adapters.
        data: Decides what "microworld" is.
        freeze: Parts that are not trained.

    Raises:
        ConfigError: It has no such part.
        ModelError: There is no config, or it is none of a causal language model.
    """
    return _shape(model.model_dump_json(), model_config(model, data).to_json_string(use_diff=False), tuple(freeze))


def model_config(model: ModelConfig, data: DataConfig) -> Any:
    """The Hugging Face config: of a folder, of the hub's cache, or of the microworld's base; never downloaded.

    Raises:
        ModelError: There is none.
    """
    import transformers

    auto: Any = transformers.AutoConfig
    if model.path == MICROWORLD:
        return _microworld_config()
    folder = Path(model.path).expanduser()
    place = str(folder) if folder.is_dir() else model.path
    try:
        with quiet_transformers():
            return auto.from_pretrained(place, local_files_only=True, trust_remote_code=model.trust_remote_code)
    except Exception as error:
        if folder.is_dir():
            remedy = "It must hold a config.json of a model that transformers knows."
        else:
            remedy = (
                "Name a folder: its config.json alone is enough for a dry run (recipes/shapes has some, "
                "such as --model.path recipes/shapes/llama-2-7b)."
            )
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"a dry run needs the model's config.json, in a folder or in the hub's cache here; {model.path} has none "
            f"({reason[0][:200]}). {remedy}"
        ) from error


def tokenizer_at_hand(model: ModelConfig) -> "PreTrainedTokenizerBase | None":
    """The model's tokenizer where it lies here; None where it does not."""
    import transformers

    auto: Any = transformers.AutoTokenizer

    if model.path == MICROWORLD:
        from neftune.data.microworld import make_tokenizer

        return make_tokenizer()
    folder = Path(model.path).expanduser()
    try:
        with quiet_transformers():
            tokenizer = auto.from_pretrained(
                str(folder) if folder.is_dir() else model.path,
                local_files_only=True,
                trust_remote_code=model.trust_remote_code,
            )
    except Exception:  # loaders raise whatever the missing file happened to break
        return None
    # transformers makes an empty tokenizer from a config alone
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_tokens) + 1 else None


def meta_model(config: Any, dtype: str) -> "PreTrainedModel":
    """The model without memory for its weights."""
    import transformers

    auto: Any = transformers.AutoModelForCausalLM

    try:
        with quiet_transformers(), torch.device("meta"):
            return auto.from_config(config, dtype=getattr(torch, dtype))
    except Exception as error:
        raise ModelError(
            f"a dry run needs the config of a causal language model, got {type(config).__name__} ({error}). "
            "Name another model with --model.path."
        ) from error


@functools.lru_cache(maxsize=64)
def _shape(model_json: str, config_json: str, freeze: tuple[str, ...]) -> ModelShape:
    model = ModelConfig.model_validate_json(model_json)
    network: Any = meta_model(config_from_json(config_json), model.dtype)
    config = network.config.get_text_config()
    heads = int(config.num_attention_heads)
    head_width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kept = int(getattr(config, "num_key_value_heads", None) or heads)
    output = network.get_output_embeddings()
    base = sum(parameter.numel() for parameter in network.parameters())
    active, _ = _active(network, config)
    linear = _linear(network)
    quantised, rows = (
        sum(one.weight.shape[0] if is_row else one.weight.numel() for one in linear) for is_row in (0, 1)
    )
    adapted = _adapted(network, model) if model.adapter != "none" else network
    with frozen(adapted, freeze):
        trained = [one for one in adapted.parameters() if one.requires_grad]
        active, frozen_weights = _active(network, config) if model.adapter == "none" else (active, active)
        sizes = _sizes(adapted)
        head_trained = output.weight.requires_grad
    return ModelShape(
        name=type(network).__name__,
        parameters=sum(parameter.numel() for parameter in adapted.parameters()),
        trained=sum(parameter.numel() for parameter in trained),
        adapters=sum(parameter.numel() for parameter in adapted.parameters()) - base,
        active=active,
        frozen=frozen_weights,
        quantised=quantised,
        quantised_rows=rows,
        sizes=sizes,
        head_trained=head_trained,
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        vocabulary=int(output.weight.shape[0]),
        attention_width=heads * head_width,
        cache_width=2 * kept * head_width,
        context=getattr(config, "max_position_embeddings", None),
    )


def config_from_json(text: str) -> Any:
    """A Hugging Face config from its JSON."""
    import json

    import transformers

    auto: Any = transformers.AutoConfig
    values = json.loads(text)
    return auto.for_model(values.pop("model_type"), **values)


def _active(network: Any, config: Any) -> tuple[int, int]:
    """Weights a token is multiplied with, and those of them that are frozen."""
    weights = [module.weight for module in _linear(network)] + [network.get_output_embeddings().weight]
    experts = [one for name, one in network.named_parameters() if one.ndim == 3 and "experts" in name]
    number = next(
        (getattr(config, name) for name in ("num_local_experts", "num_experts", "n_routed_experts")
         if getattr(config, name, None)), 1,
    )  # fmt: skip
    visited = getattr(config, "num_experts_per_tok", None) or number

    def count(is_frozen: bool) -> int:
        plain, of_experts = (
            sum(one.numel() for one in group if not (is_frozen and one.requires_grad)) for group in (weights, experts)
        )
        return plain + of_experts * int(visited) // int(number)

    return count(False), count(True)


def _linear(network: Any) -> list[Any]:
    """Linear layers but the output layer."""
    from transformers.pytorch_utils import Conv1D

    output = network.get_output_embeddings()
    return [one for one in network.modules() if isinstance(one, torch.nn.Linear | Conv1D) and one is not output]


def _sizes(network: Any) -> tuple[Trained, ...]:
    """Shapes of what is trained, a tied matrix once."""
    tables = {id(one.weight) for one in network.modules() if isinstance(one, torch.nn.Embedding)}
    trained = ((tuple(one.shape), id(one) in tables) for one in network.parameters() if one.requires_grad)
    return tuple(Trained(*key, number) for key, number in Counter(trained).items())


def _adapted(network: Any, model: ModelConfig) -> Any:
    """The model with the run's own adapters on it."""
    from neftune.training.models import _add_adapters  # pyright: ignore[reportPrivateUsage]

    with quiet_transformers(), torch.device("meta"), _meta_adapters():
        # What holds the frozen weights changes no shape.
        return _add_adapters(network, model.model_copy(update={"quantization": None}))


@contextlib.contextmanager
def _meta_adapters() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta.*")
        yield


def _microworld_config() -> Any:
    from neftune.data.microworld import make_tokenizer
    from neftune.training.base_model import PretrainSettings, _fresh_model  # pyright: ignore[reportPrivateUsage]

    with torch.device("meta"):
        return cast(Any, _fresh_model(make_tokenizer(), PretrainSettings())).config
