"""Peak memory of a run on one processor, part by part, and what would make it fit."""

from collections.abc import Mapping
from dataclasses import dataclass

from neftune.config import RunConfig
from neftune.study.estimate.activations import activations
from neftune.study.estimate.shapes import ModelShape, model_shape
from neftune.study.estimate.tokens import Tokens
from neftune.training.trainer import micro_batch_size

RUNTIME_BYTES = 10**9
"""Taken by the CUDA context and its libraries' workspaces; an assumption."""

ROOM = 0.95
"""Share of a processor's memory that a run may plan with: the allocator loses some to fragments; an assumption."""

HEAD_TILE = 4096
"""Tokens whose logits the trainer's fused output layer holds at a time (TRL, trl/kernels/chunked_logprob.py)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one processor while training, and while answering.

    Attributes:
        parts: By name: "weights", "gradients", "optimizer", "activations", "output layer".
        answering: Weights, and keys and values of the largest batch that is answered.
        runtime: What the device's own software takes.
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

    The longest document fills every row of the micro-batch. Weights, gradients and the optimiser's state have the
    weights' type, as torch makes them; nothing is kept in float32 beside bfloat16 weights.
    """
    size = 4 if config.model.dtype == "float32" else 2
    rows = min(micro_batch_size(config.train), len(tokens.train))
    length = int(tokens.train.max())
    kept = activations(config.model, config.data, rows=rows, length=length)
    weights = shape.parameters * size
    parts = {
        "weights": weights,
        "gradients": shape.trained * size,
        "optimizer": 2 * shape.trained * size,
        "activations": kept.checkpointed if config.train.gradient_checkpointing else kept.kept,
        "output layer": _output_layer(shape, rows * length, size),
    }
    limit = config.evaluate.max_new_tokens
    widest = max((int(lengths.max()) for lengths in tokens.prompts.values()), default=0) + limit
    cache = min(4 * 2**30, config.evaluate.batch_size * widest * shape.layers * shape.cache_width * size)
    return Memory(parts, weights + cache, RUNTIME_BYTES if on_gpu else 0)


def _output_layer(shape: ModelShape, tokens: int, size: int) -> int:
    """The trainer's fused output layer: one tile of logits, hidden states and their gradient, the weight's gradient."""
    tile = min(tokens, HEAD_TILE) * shape.vocabulary
    weight = 4 * shape.vocabulary * shape.width if shape.trained > shape.adapters else 0
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
        memory = run_memory(changed, model_shape(changed.model, changed.data), tokens, on_gpu=on_gpu)
        if memory.fits(capacity):
            found.append(" ".join(chosen))
    return found


def _changed(config: RunConfig, changes: list[dict[str, dict[str, object]]]) -> RunConfig:
    for change in changes:
        for group, values in change.items():
            config = config.model_copy(update={group: getattr(config, group).model_copy(update=values)})
    return config
