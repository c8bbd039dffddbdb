"""What a forward pass keeps for the backward pass, by tracing the model on torch's meta device.

The trace runs the model's own forward and sums the storages that autograd saves, so it holds for every architecture.
Attention is traced as a fused kernel: query, key, value, output and one log-sum-exp per head and token are kept, never
the square of the length (FlashAttention, arXiv 2205.14135; torch's SDPA), except for a model that transformers gives
its plain attention. Beside it, for comparison: `korthikanti_bytes`, the published formula.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from neftune.config import DataConfig, ModelConfig
from neftune.study.estimate.shapes import config_from_json, meta_model, model_config
from neftune.training.freezing import frozen

_FUSED, _PLAIN = "neftune_fused", "neftune_plain"


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes kept for the backward pass of one forward pass.

    Attributes:
        kept: All of them.
        inputs: Of them, what checkpointing keeps: the input of every block.
        block: What one block keeps, which checkpointing makes anew one block at a time.
        outside: What lies outside the blocks.
    """

    kept: int
    inputs: int
    block: int
    outside: int

    @property
    def checkpointed(self) -> int:
        """Bytes at most with gradient checkpointing (arXiv 1604.06174): every block's input, and one block whole."""
        return self.inputs + self.block + self.outside


def activations(
    model: ModelConfig, data: DataConfig, *, rows: int, length: int, freeze: Sequence[str] = ()
) -> Activations:
    """What a training forward pass of ``rows`` rows of ``length`` tokens keeps, without the output layer.

    Adapters are traced without their own activations where the base is frozen: what a frozen layer keeps is what its
    adapter reads. ``freeze`` is obeyed where there are none; else it could only save.

    Raises:
        ModelError: There is no config, or its forward cannot be traced.
    """
    parts = tuple(freeze) if model.adapter == "none" else ()
    return _traced(model_config(model, data).to_json_string(use_diff=False), model.dtype, rows, length, parts)


def korthikanti_bytes(*, rows: int, length: int, width: int, layers: int, heads: int, attention: bool = True) -> int:
    """Bytes that a GPT with 16-bit activations and dropout keeps.

    Source: Korthikanti et al. 2022, arXiv 2205.05198, equation 2: s b h (34 + 5 a s / h) per layer; its second term is
    the attention matrix, which a fused kernel does not keep.
    """
    return round(layers * rows * length * (34 * width + (5 * heads * length if attention else 0)))


class _Fused(torch.autograd.Function):
    """Attention that keeps what a fused kernel keeps, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, heads, length = query.shape[:3]
        made = query.new_empty(rows, length, heads, value.shape[-1])
        sums = torch.empty(rows, heads, length, dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, made, sums)
        return made


def _fused(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> Any:
    return cast(Any, _Fused).apply(query, key, value), None


def _plain(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, softcap: Any = None, **__: Any
) -> Any:
    """Attention as transformers writes it out, masks left out."""
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    scores = query @ key.transpose(2, 3) * 1.0
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = torch.softmax(scores + 0.0, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@functools.lru_cache(maxsize=64)
def _traced(config_json: str, dtype: str, rows: int, length: int, freeze: tuple[str, ...]) -> Activations:
    import transformers

    interface: Any = transformers.AttentionInterface
    interface.register(_FUSED, _fused)
    interface.register(_PLAIN, _plain)
    network: Any = meta_model(config_from_json(config_json), dtype).train()
    network.set_attn_implementation(_PLAIN if network.config._attn_implementation == "eager" else _FUSED)
    config = network.config.get_text_config()
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    inputs = layers * rows * length * width * network.dtype.itemsize
    with frozen(network, freeze):
        whole, outside = _saved(network, rows, length), _outside(network, rows, length)
    return Activations(whole, inputs, (whole - outside) // layers, outside)


def _outside(network: Any, rows: int, length: int) -> int:
    """What a model without its blocks keeps: embedding, last norm."""
    blocks = _blocks(network)
    if blocks is None:
        return 0
    kept = list(blocks)
    del blocks[:]
    try:
        return _saved(network, rows, length)
    finally:
        blocks.extend(kept)


def _blocks(network: Any) -> Any:
    """The model's list of blocks: the longest list of modules."""
    lists = [module for module in network.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=None)


def _saved(network: Any, rows: int, length: int) -> int:
    """Bytes of distinct storages, weights apart, that autograd saves in a forward pass of the trunk."""
    weights = {_address(parameter) for parameter in network.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        address = _address(tensor)
        if address not in weights:
            kept[address] = tensor.untyped_storage()
        return tensor

    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = network.base_model(input_ids=ids, use_cache=False)
    total = sum(storage.nbytes() for storage in kept.values())
    del made
    return total


def _address(tensor: torch.Tensor) -> int:
    """What two tensors with one storage have in common; on the meta device no data pointer tells."""
    storage: Any = tensor.untyped_storage()
    return storage._cdata
