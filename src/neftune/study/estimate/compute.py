"""Floating-point operations of a run, and the seconds they take on named hardware.

A token costs 2 operations per weight it is multiplied with going forward, and 4 going back: one product for the
gradient of the input, one for that of the weight (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Attention adds
4 x blocks x heads x their width x length going forward, so 12 in all (PaLM, arXiv 2204.02311, appendix B). A frozen
weight needs no gradient of its own: under LoRA a weight costs 4 in place of 6. Gradient checkpointing goes forward once
more. Regularisers that pass over a batch several times multiply all of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neftune.config import RunConfig
from neftune.study.estimate.hardware import DECODING_UTILISATION, SECONDS_PER_LAYER, Hardware
from neftune.study.estimate.shapes import ModelShape
from neftune.study.estimate.tokens import Numbers, Tokens, padded
from neftune.study.estimate.training_cost import passes
from neftune.training.trainer import micro_batch_size


@dataclass(frozen=True, slots=True)
class Work:
    """What a run computes.

    Attributes:
        steps: Optimiser steps.
        train_tokens: Training tokens over all epochs, padding left out.
        padded_tokens: The same with padding.
        watch_tokens: Tokens of the clean losses along the way.
        train_flops: Operations of training, of all ranks together.
        watch_flops: Of the clean losses along the way.
        forward_flops: Of what only goes forward afterwards: losses, prompts.
        answers: Prompts that are answered.
        answer_tokens: Tokens of their answers at most.
        ranks: Processes that share the training; the first alone does the rest.
        decoding_steps: (steps, rows, mean length in tokens) of every batch that is answered, at most.
    """

    steps: int
    train_tokens: int
    padded_tokens: int
    watch_tokens: int
    train_flops: float
    watch_flops: float
    forward_flops: float
    answers: int
    answer_tokens: int
    decoding_steps: tuple[tuple[int, int, int], ...]
    ranks: int = 1


def forward_flops(shape: ModelShape, length: float) -> float:
    """Operations per token of a forward pass over inputs of this length."""
    return 2 * shape.active + 4 * shape.layers * shape.attention_width * length


def train_flops(shape: ModelShape, length: float, *, checkpointing: bool) -> float:
    """Operations per token of a training step."""
    forward = forward_flops(shape, length)
    again = forward - 2 * shape.vocabulary * shape.width if checkpointing else 0.0
    adapters = 2 * shape.adapters + 4 * shape.trained if shape.adapters else 0
    return 3 * forward - 2 * shape.frozen + again + adapters


def run_work(config: RunConfig, shape: ModelShape, tokens: Tokens) -> Work:
    """What one run computes; early stops are not foreseen."""
    from neftune.training.probes import Timetable

    train = config.train
    per_epoch = math.ceil(len(tokens.train) / train.batch_size)
    steps = math.ceil(train.epochs * per_epoch)
    epochs = steps / per_epoch
    padded_tokens, length = padded(tokens.train, micro_batch_size(train))
    timetable = Timetable.make(
        steps,
        steps_per_epoch=per_epoch,
        evaluations=train.evaluations,
        checkpoints=train.checkpoints,
        stops_early=config.stop_at_train_loss_of is not None,
    )
    extra = passes(train) * train_flops(shape, length, checkpointing=train.gradient_checkpointing)
    watched = int(tokens.watched.sum()) * (1 + len(timetable.probe_steps))
    losses = sum(_forward(shape, lengths) for lengths in tokens.references.values())
    prefill = sum(_forward(shape, lengths) for lengths in tokens.prompts.values())
    limit = config.evaluate.max_new_tokens
    answers = sum(len(lengths) for lengths in tokens.prompts.values())
    return Work(
        steps=steps,
        train_tokens=round(tokens.num_train * epochs),
        padded_tokens=round(padded_tokens * epochs),
        watch_tokens=watched,
        train_flops=padded_tokens * epochs * extra,
        watch_flops=_forward(shape, tokens.watched) * (1 + len(timetable.probe_steps)),
        forward_flops=losses + prefill,
        answers=answers,
        answer_tokens=answers * limit,
        decoding_steps=tuple(_decoding(config, shape, tokens.prompts)),
        ranks=train.world_size,
    )


def seconds_on(one: Hardware, shape: ModelShape, work: Work, *, dtype: str, utilisation: float) -> dict[str, float]:
    """Seconds by stage on one processor.

    Training and forward passes are bound by arithmetic. Answering is bound by memory: every step reads all weights and
    the keys and values so far; without compilation a step also takes `SECONDS_PER_LAYER` per block.
    """
    rate = one.peak(dtype) * utilisation
    size = 4 if dtype == "float32" else 2
    decoding = 0.0
    for steps, rows, length in work.decoding_steps:
        read = size * (shape.active + rows * length * shape.layers * shape.cache_width)
        decoding += steps * max(read / (one.bandwidth * DECODING_UTILISATION), SECONDS_PER_LAYER * shape.layers)
    return {
        "training": (work.train_flops / work.ranks + work.watch_flops) / rate,
        "evaluation": work.forward_flops / rate + decoding,
    }


def _forward(shape: ModelShape, lengths: Numbers) -> float:
    """Operations of a forward pass over documents batched by length, so hardly padded."""
    total = lengths.astype(np.float64)
    return float((2 * shape.active * total + 4 * shape.layers * shape.attention_width * total**2).sum())


def _decoding(config: RunConfig, shape: ModelShape, prompts: Mapping[str, Numbers]) -> list[tuple[int, int, int]]:
    """Batches as generation makes them: by length, under its memory for keys and values."""
    from neftune.evaluation.generation import GenerationSettings

    limit = config.evaluate.max_new_tokens
    size = 4 if config.model.dtype == "float32" else 2
    budget = GenerationSettings(limit).cache_bytes // max(1, shape.layers * shape.cache_width * size)
    batches: list[tuple[int, int, int]] = []
    for lengths in prompts.values():
        at = 0
        while at < len(lengths):
            rows = min(config.evaluate.batch_size, len(lengths) - at)
            while rows > 1 and rows * (int(lengths[at + rows - 1]) + limit) > budget:
                rows -= 1
            batches.append((limit, rows, int(lengths[at + rows - 1]) + limit // 2))
            at += rows
    return batches
