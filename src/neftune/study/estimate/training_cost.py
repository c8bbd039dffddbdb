"""What optimisers, regularisers, adapters and quantisation cost beside the plain training of a model."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from neftune.config import ModelConfig, TrainConfig
from neftune.training.regularizers import Regularizer, make_regularizers, regularizers

_SMALLEST_8BIT, _BLOCK = 4096, 256
"""Bitsandbytes keeps smaller tensors in 32 bits; one float32 a block of the others (its AdamW8bit)."""

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in nf4 with double quantisation (arXiv 2305.14314, section 3): a byte a block of 64, 4 a 256 blocks."""

OPTIMIZERS = ("adamw", "schedule_free_adamw", "lion", "adafactor", "adamw_8bit")
"""Whose states are known."""

_OWN = ("attention_dropout", "dropout", "freelb", "label_smoothing", "noisytune", "r3f")


class Trained(NamedTuple):
    """Parameters of one shape that are trained.

    Attributes:
        size: Their shape.
        is_embedding: Whether a table of embeddings.
        number: How many parameters have it.
    """

    size: tuple[int, ...]
    is_embedding: bool
    number: int


def trained_bytes(model: ModelConfig) -> int:
    """Bytes of one trained number: adapters are float32 whatever the weights below them are, as PEFT makes them."""
    return 4 if model.adapter != "none" else weight_bytes(model)


def weight_bytes(model: ModelConfig) -> int:
    """Bytes of one weight that is not quantised."""
    return 4 if model.dtype == "float32" else 2


def optimizer_bytes(optimizer: str, trained: Sequence[Trained], size: int) -> int:
    """Bytes of an optimiser's states; of one that is not known, AdamW's.

    AdamW and schedule-free AdamW keep two numbers of the weights' type, Lion one of 32 bits, Adafactor a float32 for
    every row and column of a matrix (of a vector for every number), 8-bit AdamW two bytes; embeddings and small tensors
    there have 32 bits.

    Args:
        optimizer: As `train.optimizer` names it.
        trained: What is trained.
        size: Bytes of a trained number.
    """
    return sum(one.number * _state_bytes(optimizer, one, size) for one in trained)


def _state_bytes(optimizer: str, one: Trained, size: int) -> int:
    number = math.prod(one.size)
    if optimizer == "lion":
        return 4 * number
    if optimizer == "adafactor":
        is_matrix = len(one.size) > 1
        return 4 * (number // one.size[-1] + number // one.size[-2]) if is_matrix else 4 * number
    if optimizer == "adamw_8bit":
        small = one.is_embedding or number < _SMALLEST_8BIT
        return 8 * number if small else 2 * (number + 4 * -(-number // _BLOCK))
    return 2 * size * number


def passes(train: TrainConfig) -> int:
    """Forward and backward passes over a micro-batch: FreeLB's K, twice that for R3F's second look."""
    made = make_regularizers(train.regularizers)
    climbs = math.prod(int(one.model_dump()["steps"]) for one in made if type(one) is regularizers["freelb"])
    return climbs * looks(train)


def looks(train: TrainConfig) -> int:
    """Forward passes whose activations are held at a time."""
    return 2 if "r3f" in train.regularizers else 1


def reads_tokens(train: TrainConfig) -> bool:
    """Whether a regulariser needs every trained token's distribution, so that logits are made whole."""
    return any(one.reads_tokens for one in make_regularizers(train.regularizers))


def unknown_regularizers(train: TrainConfig) -> list[str]:
    """Regularisers of one's own that change the loss, whose passes nobody knows."""
    return [
        name
        for name in train.regularizers
        if name not in _OWN and (regularizers[name].reads_tokens or regularizers[name].loss is not Regularizer.loss)
    ]
