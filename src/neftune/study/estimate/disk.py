"""Bytes that a run leaves on disk, and holds while it goes on."""

from dataclasses import dataclass

from neftune.config import RunConfig
from neftune.study.estimate.shapes import ModelShape
from neftune.study.estimate.tokens import Tokens
from neftune.study.estimate.training_cost import optimizer_bytes, trained_bytes, weight_bytes

CHARACTERS_OF_AN_ANSWER = 4
"""Bytes per token of an answer."""

SCORE_BYTES = 12 * 20
"""A dozen scores of an example, twenty characters each."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of one run.

    Attributes:
        record: Its result: answers at their longest, prompts, references, scores.
        model: Its weights, where they are kept.
        checkpoints: At most, while it goes on; removed once it is done.
    """

    record: int
    model: int
    checkpoints: int


def run_disk(config: RunConfig, shape: ModelShape, tokens: Tokens) -> Disk:
    """What one run writes."""
    size, trained = weight_bytes(config.model), trained_bytes(config.model)
    limit = config.evaluate.max_new_tokens
    asked = sum(int(lengths.sum()) + len(lengths) * limit for lengths in tokens.prompts.values())
    asked += sum(int(lengths.sum()) for lengths in tokens.references.values())
    number = sum(len(lengths) for lengths in tokens.prompts.values())
    written = trained * (shape.adapters or shape.parameters)
    merged = (shape.parameters - shape.adapters) * size
    model = trained * shape.adapters if config.model.quantization else merged
    # The trainer writes a third checkpoint before it removes the first of two.
    kept = min(3, config.train.checkpoints)
    return Disk(
        record=asked * CHARACTERS_OF_AN_ANSWER + number * SCORE_BYTES,
        model=model if config.train.save_model else 0,
        checkpoints=kept * (written + optimizer_bytes(config.train.optimizer, shape.sizes, trained)),
    )
