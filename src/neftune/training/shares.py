"""Which documents each rank trains on: together those that one process would have taken for the same step.

A trainer deals micro-batches out to its ranks in turn, and fills up the end of an epoch with documents from its
beginning. Here the end is filled with blanks instead, which train nothing and get no noise: every optimiser batch holds
the very same documents, in the very same micro-batches, on any number of ranks.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import nn
from torch.utils.data import Dataset

from neftune.training.collator import BLANK

if TYPE_CHECKING:
    from neftune.integrations.transformers import NoiseCallback

BLANK_LENGTH = 1
"""Tokens of a micro-batch of blanks; a document has more, or it would have nothing to train on."""


class EvenOrder(Dataset[Mapping[str, int]]):
    """Documents in the order of one process's trainer, epoch by epoch, with blanks up to a whole round of the ranks.

    Args:
        num_documents: How many there are.
        data_seed: As the trainer of one process gets it.
        round_size: Documents that all ranks together take in one forward pass.
    """

    def __init__(self, num_documents: int, *, data_seed: int, round_size: int) -> None:
        self._sampler = SeedableRandomSampler(range(num_documents), generator=torch.Generator(), data_seed=data_seed)
        self._num_blanks = -num_documents % round_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Take up an epoch's order; the trainer's data loader calls it."""
        self._sampler.set_epoch(epoch)
        self._order = [*self._sampler, *[BLANK] * self._num_blanks]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, int]:
        return {"index": self._order[position]}


@contextlib.contextmanager
def blanks_unnoised(model: nn.Module, noise: "NoiseCallback") -> Iterator[None]:
    """Inside, the noise passes over micro-batches of blanks, and its meter does not count them.

    Args:
        model: What is trained.
        noise: The callback that puts the noise on it.
    """
    pause = contextlib.ExitStack()

    def look(module: nn.Module, args: object, kwargs: dict[str, Any]) -> None:
        # The pause lasts until the next forward: the noise's own hooks must still see it when this one ends.
        pause.close()
        if kwargs["input_ids"].shape[1] == BLANK_LENGTH:
            pause.enter_context(noise.paused())

    hook = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        pause.close()
