"""Peak memory of a run on one processor, part by part, and what would make it fit."""

from collections.abc import Mapping
from dataclasses import dataclass

from neftune.config import RunConfig
from neftune.study.estimate.activations import activations
from neftune.study.estimate.shapes import ModelShape, model_shape
from neftune.study.estimate.tokens import Tokens
from neftune.study.estimate.training_cost import (
    NF4_BYTES,
    looks,
    optimizer_bytes,
    reads_tokens,
    trained_bytes,
    weight_bytes,
)
from neftune.training.trainer import micro_batch_size

RUNTIME_BYTES = 10**9
"""Taken by the CUDA context and its libraries' workspaces; an assumption."""

PROCESS_BYTES = 800 * 10**6
"""Resident on a CPU beside a run's own memory: Python, torch and the libraries that a run imports.

Measured: 0.62 GB after the imports, 0.80 GB after one run of the microworld's model, more after larger ones.
"""

ROOM = 0.95
"""Share of a processor's memory that a run may plan with: the allocator loses some to fragments; an assumption."""

HEAD_TILE = 4096
"""Tokens whose logits the trainer's fused output layer holds at a time (TRL, trl/kernels/chunked_logprob.py)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one processor while training, and while answering.

    Attributes:
        parts: By name: "weights", "gradients", "optimizer", "activations", "output layer", and on several ranks
            "gradients to send".
        answering: Weights, and keys and values of the largest batch that is answered.
        runtime: What the GPU's own software takes, or on a CPU the process before it has a model.
    """

    parts: Mapping[str, int]
    answering: int
    runtime: int

    @property
    def peak(self) -> int:
        """The larger of the two."""
        return max(sum(self.parts.values()), self.answering) + self.runtime

    def fits(self, capacity: float) -> bool:
        """Whether a processor of so many bytes can do it."""
        return self.peak <= capacity * ROOM


def run_memory(config: RunConfig, shape: ModelShape, tokens: Tokens, *, on_gpu: bool) -> Memory:
    """Peak memory of one run.

    The longest document fills every row of the micro-batch. Weights and gradients have the weights' type, as torch
    makes them; adapters, and what quantisation leaves of the base, are float32, as PEFT makes them. On several ranks it
    is that of each: the whole model, its own micro-batch, and the gradients once more in the buckets that are sent.
    """
    size, trained = weight_bytes(config.model), trained_bytes(config.model)
    train = config.train
    rows = min(micro_batch_size(config.train), len(tokens.train))
    length = int(tokens.train.max())
    kept = activations(config.model, config.data, rows=rows, length=length, freeze=train.freeze)
    weights = _weights(config, shape)
    parts = {
        "weights": weights,
        "gradients": shape.trained * trained,
        "optimizer": optimizer_bytes(train.optimizer, shape.sizes, trained),
        "activations": looks(train) * (kept.checkpointed if train.gradient_checkpointing else kept.kept),
        "output layer": _output_layer(config, shape, rows * length),
    }
    if train.world_size > 1:
        parts["gradients to send"] = parts["gradients"]
    limit = config.evaluate.max_new_tokens
    widest = max((int(lengths.max()) for lengths in tokens.prompts.values()), default=0) + limit
    cache = min(4 * 2**30, config.evaluate.batch_size * widest * shape.layers * shape.cache_width * size)
    return Memory(parts, weights + cache, RUNTIME_BYTES if on_gpu else PROCESS_BYTES)


def _weights(config: RunConfig, shape: ModelShape) -> int:
    """Bytes of all weights, adapters included."""
    base = shape.parameters - shape.adapters
    if config.model.quantization is None:
        return base * weight_bytes(config.model) + 4 * shape.adapters
    of_4bit = round(shape.quantised * NF4_BYTES)
    held = of_4bit if config.model.quantization == "nf4" else shape.quantised + 4 * shape.quantised_rows
    return held + 4 * (base - shape.quantised + shape.adapters)


def _output_layer(config: RunConfig, shape: ModelShape, tokens: int) -> int:
    """The trainer's fused output layer: one tile of logits, hidden states and their gradient, the weight's gradient.

    A regulariser that reads distributions makes all logits, and float32 log-probabilities of every trained token with
    their gradients; taken of every token, so at most. R3F also keeps probabilities and differences of both passes.
    """
    size = weight_bytes(config.model)
    if reads_tokens(config.train):
        each = looks(config.train) * (2 * size + 8) + (16 if "r3f" in config.train.regularizers else 0)
        return tokens * (shape.vocabulary * each + shape.width * size)
    tile = min(tokens, HEAD_TILE) * shape.vocabulary
    weight = 4 * shape.vocabulary * shape.width if shape.head_trained else 0
    return tile * size + tokens * shape.width * (size + 4) + weight


def what_fits(config: RunConfig, tokens: Tokens, *, capacity: float, on_gpu: bool) -> list[str]:
    """Settings with which the run would fit, the mildest first; empty where none of them does."""
    changes: dict[str, dict[str, dict[str, object]]] = {
        "train.micro_batch_size=1": {"train": {"micro_batch_size": 1}},
        "train.gradient_checkpointing=true": {"train": {"gradient_checkpointing": True}},
        "model.dtype=bfloat16": {"model": {"dtype": "bfloat16"}},
        "model.adapter=lora": {"model": {"adapter": "lora"}},
    }
    names = list(changes)
    single = [[name] for name in names]
    several = [names[:2], [*names[:2], names[2]], [*names[:2], names[3]], names]
    found: list[str] = []
    for chosen in [*single, *several]:
        changed = _changed(config, [changes[name] for name in chosen])
        if changed == config or any(set(one.split()) <= set(chosen) for one in found):
            continue
        memory = run_memory(
            changed, model_shape(changed.model, changed.data, changed.train.freeze), tokens, on_gpu=on_gpu
        )
        if memory.fits(capacity):
            found.append(" ".join(chosen))
    return found


def _changed(config: RunConfig, changes: list[dict[str, dict[str, object]]]) -> RunConfig:
    for change in changes:
        for group, values in change.items():
            config = config.model_copy(update={group: getattr(config, group).model_copy(update=values)})
    return config
