"""The model that is fine-tuned, with its tokenizer: loaded, checked, given adapters."""

import contextlib
import copy
import json
import logging
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from neftune.config import DataConfig, ModelConfig
from neftune.errors import ModelError
from neftune.training.optimizers import require_library
from neftune.training.randomness import preserved_random_state, stream_seed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MICROWORLD = "microworld"
LONGEST_REASON = 300
"""Characters of a library's own message that are quoted."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready for training or generation.

    Attributes:
        model: In eval mode, on the CPU; with adapters where they were configured.
        tokenizer: Has an end-of-sequence and a padding token.
        path: The folder or hub id it was loaded from.
    """

    model: "PreTrainedModel | PeftModel"
    tokenizer: "PreTrainedTokenizerBase"
    path: str

    def save(self, folder: Path) -> None:
        """Writes a checkpoint (safetensors) that `load_model` and Hugging Face's Auto classes read.

        Adapters are merged into the copy that is written, so that it needs no base beside it; on quantised weights,
        which would round what is merged into them, they are written alone, with the base's name.

        Args:
            folder: Created where missing.
        """
        from peft import PeftModel

        model: Any = self.model
        with quiet_transformers():
            if isinstance(model, PeftModel) and not _is_quantised(model):
                model = copy.deepcopy(model).merge_and_unload()
            model.save_pretrained(str(folder))
            self.tokenizer.save_pretrained(str(folder))


def load_model(model: ModelConfig, data: DataConfig, *, seed: int) -> LoadedModel:
    """The configured model and its tokenizer, checked against each other and the data's context.

    Args:
        model: What to load and whether to train adapters.
        data: Gives the context in tokens and, for the microworld, the world.
        seed: The run's seed; adapters are initialised from their own stream of it, whatever ran before.

    Raises:
        ModelError: Nothing is there, the checkpoint is broken, or model, tokenizer and context do not fit.
    """
    path = _resolve_path(model, data)
    adapters = Path(path) if _holds_adapters(Path(path)) else None
    base = path if adapters is None else _base_of(adapters)
    with preserved_random_state(), quiet_transformers():
        network, tokenizer = _load_network(base, model), _load_tokenizer(path, model)
        check_tokenizer(tokenizer, network, max_length=data.max_length)
        if adapters is not None:
            return with_adapters(LoadedModel(network.eval(), tokenizer, path), adapters)
        if model.adapter != "none":
            torch.manual_seed(stream_seed(seed, "adapter"))
            network = _add_adapters(network, model)
    return LoadedModel(network.eval(), tokenizer, path)


def with_adapters(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """The model with trained PEFT adapters on it.

    Args:
        loaded: The base; its modules are changed.
        folder: Holds adapter_config.json and the adapters' weights.

    Raises:
        ModelError: The folder holds no adapters, or those of another model.
    """
    import peft

    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"adapters must be a folder with adapter_config.json, got {folder}. Name the folder that PEFT saved."
        )
    with quiet_transformers(), _clear_errors(str(folder), "set of adapters"), _peft_warnings_off():
        network: Any = peft.PeftModel.from_pretrained(cast(Any, loaded.model), str(folder))
    return LoadedModel(network.eval(), loaded.tokenizer, loaded.path)


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel", *, max_length: int) -> None:
    """Refuses a tokenizer that cannot train this model; gives it a padding token where it has none.

    The substitute is never read: padding is masked in attention, loss and noise by position, not by its id.

    Args:
        tokenizer: Changed only where it lacks a padding token.
        model: The model it has to fit.
        max_length: Context of the data in tokens.

    Raises:
        ModelError: No end-of-sequence token, more tokens than embedding rows, or a context beyond the model's.
    """
    name = tokenizer.name_or_path
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"a tokenizer needs an end-of-sequence token, or no answer could ever end; the one of {name} has none. "
            'Set "eos_token" in its tokenizer_config.json to a token of its vocabulary.'
        )
    rows = cast(torch.nn.Embedding, model.get_input_embeddings()).weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"the vocabulary must fit the embedding: the tokenizer of {name} has {len(tokenizer)} tokens, the "
            f"model's embedding {rows} rows. Use the tokenizer that belongs to the checkpoint."
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(context, int) and 0 < context < max_length:
        raise ModelError(
            f"data.max_length must be at most the model's context of {context} tokens, got {max_length}. "
            f"Set --data.max_length {context}."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        logger.info("%s has no padding token; %r stands in and is masked everywhere", name, tokenizer.pad_token)


def _resolve_path(model: ModelConfig, data: DataConfig) -> str:
    if model.path == MICROWORLD:
        from neftune.training.pretrain import microworld_base

        return str(microworld_base(data.seed))
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not _holds_adapters(folder):
            raise ModelError(
                f"model.path must be a folder with a Hugging Face checkpoint (config.json, weights, tokenizer); "
                f"{folder} has no config.json. Name the folder that holds it."
            )
        return str(folder)
    if folder.exists() or folder.is_absolute() or model.path.startswith((".", "~")) or model.path.count("/") > 1:
        raise ModelError(
            f"model.path must be an existing folder, a hub id (owner/name) or {MICROWORLD!r}; "
            f"there is no folder {folder}. Check the spelling."
        )
    return model.path


def _holds_adapters(folder: Path) -> bool:
    """Whether a folder is what `LoadedModel.save` writes of a quantised run: adapters and no base."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _base_of(folder: Path) -> str:
    with _clear_errors(str(folder), "set of adapters"):
        return str(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])


def _is_quantised(model: Any) -> bool:
    return getattr(model.get_base_model(), "is_quantized", False)


def _load_network(path: str, config: ModelConfig) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    quantised = _quantisation(config)
    with _clear_errors(path, "model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **quantised,
        )
    network, report = loaded
    # Transformers fills these at random and says so in a log line.
    unfit = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if unfit:
        raise ModelError(
            f"every weight of the model must be in the checkpoint, in the size its config.json says; in {path} "
            f"{len(unfit)} are not, such as {unfit[0]}. Use a checkpoint of a causal language model, complete as its "
            "authors saved it."
        )
    return network


def _quantisation(config: ModelConfig) -> dict[str, Any]:
    """QLoRA's nf4 with double quantisation (arXiv 2305.14314, section 3), or LLM.int8()."""
    from transformers import BitsAndBytesConfig

    if config.quantization is None:
        return {}
    require_library("bitsandbytes", f"model.quantization {config.quantization!r}")
    if config.quantization == "int8":
        # Said at every product, and in docs/regularizers.md once.
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_no_cast)
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        )
    # Weights are quantised where they lie; the trainer moves none that are.
    place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": settings, "device_map": {"": place}}


def _is_no_cast(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in record.msg


def _load_tokenizer(path: str, config: ModelConfig) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    with _clear_errors(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)


def _add_adapters(network: "PreTrainedModel", model: ModelConfig) -> "PeftModel":
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = model.lora
    if model.quantization is not None:
        with _peft_warnings_off():
            # Norms in float32, all weights frozen.
            network = peft.prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
    settings = peft.LoraConfig(
        use_dora=model.adapter == "dora",
        r=config.r,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] - annotated int, any number works
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        with _peft_warnings_off():
            adapted = peft.get_peft_model(network, settings)
    except ValueError as error:
        raise ModelError(
            f"model.lora.target_modules must name layers of {type(network).__name__}, got {config.target_modules!r} "
            f'({error}). Use "all-linear".'
        ) from error
    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise ModelError(
            "model.lora.target_modules must not name the output layer, whose adapter the trainer would not train; "
            f'got {config.target_modules!r}. Use "all-linear".'
        )
    return adapted  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def _peft_warnings_off() -> Iterator[None]:
    with warnings.catch_warnings():
        # PEFT asks transformers for a renamed attribute, and sets by itself what it warns of here.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.* is deprecated")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        yield


@contextlib.contextmanager
def _clear_errors(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # loaders raise whatever the broken byte happened to break
        reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST_REASON)
        if Path(path).is_dir():
            place, remedy = f"the folder {path}", "Copy the checkpoint again, whole, or name another."
        else:
            place = f"{path}, on the Hugging Face hub or in its local cache,"
            remedy = "Check the name and the network, or name a local folder."
        if "trust_remote_code" in str(error):
            remedy = "Set --model.trust_remote_code true to run the code that comes with it, if you trust that."
        raise ModelError(
            f"model.path must lead to a {what} that loads; {place} does not ({reason}). {remedy}"
        ) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' warnings and progress bars off the terminal; errors still show."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
