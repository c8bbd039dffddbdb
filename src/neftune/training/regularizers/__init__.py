"""What can stand beside the noise in a recipe: one regulariser a file.

To add one, write a subclass of `Regularizer` and register it; docs/extend/regularizer.md shows how.
"""

from neftune.training.regularizers import attention_dropout, dropout, freelb, label_smoothing, noisytune, r3f
from neftune.training.regularizers.base import (
    LossAt,
    MicroBatch,
    Regularizer,
    TrainedTokens,
    make_regularizers,
    prepare_all,
    regularizers,
)

__all__ = [
    "LossAt",
    "MicroBatch",
    "Regularizer",
    "TrainedTokens",
    "attention_dropout",
    "dropout",
    "freelb",
    "label_smoothing",
    "make_regularizers",
    "noisytune",
    "prepare_all",
    "r3f",
    "regularizers",
]
