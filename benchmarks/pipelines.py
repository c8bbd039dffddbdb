"""Batches as training pipelines make them of documents of given lengths, and a model that is an embedding alone.

Noise depends on the lengths and the layout, not on what the layers after the embedding do: thousands of documents are
measured in seconds.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.integrations.neftune import activate_neftune, deactivate_neftune

import neftune
from neftune.noise.findings import AuditResult

CHARACTERS_PER_TOKEN = 4
CONTEXT = 512
VOCABULARY = 1000
Batch = dict[str, Tensor]


class EmbeddingAlone(nn.Module):
    """A model that returns its token embeddings."""

    def __init__(self, width: int = 16, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width, dtype=dtype)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.embed

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """The embeddings of the tokens, or those given."""
        return self.embed(input_ids) if inputs_embeds is None else inputs_embeds


class TransformersNoise(AbstractContextManager[None]):
    """transformers' own hook, for as long as the block runs."""

    def __init__(self, model: nn.Module, alpha: float = 5.0) -> None:
        self.model, self.alpha = model, alpha

    def __enter__(self) -> None:
        self.handle = activate_neftune(self.model, self.alpha)

    def __exit__(self, *exception: object) -> None:
        deactivate_neftune(self.model, self.handle)


PROVIDERS: dict[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "none": lambda _: nullcontext(),
    "transformers": TransformersNoise,
    "neftune": lambda model: neftune.attach(model, 5.0),
}


def measure(provider: str, batches: Iterator[Batch], *, model: nn.Module | None = None) -> AuditResult:
    """What a provider's alpha = 5 really is over batches, in training mode."""
    model = EmbeddingAlone() if model is None else model
    with PROVIDERS[provider](model.train()), neftune.audit(model, 5.0) as audit:
        for batch in batches:
            model(**batch)
    return audit.result()


def alpaca_lengths(path: Path) -> list[int]:
    """Tokens of every Alpaca example in the paper's context."""
    return document_lengths(path, CONTEXT)


def document_lengths(path: Path, context: int) -> list[int]:
    """Tokens of every example in Alpaca's template, at four characters a token, at most ``context``."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from neftune.data.datasets import read_examples
    from neftune.data.prompts import render

    end = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="</s>")
    examples = read_examples(path, skip_bad=True).examples
    texts = (render(example, template="alpaca", tokenizer=end) for example in examples)
    return [min(round(len(text.prompt + text.response) / CHARACTERS_PER_TOKEN), context) for text in texts]


def shuffled(lengths: Sequence[int], number: int, *, seed: int = 0) -> list[int]:
    """Some of the lengths in a random order."""
    return np.random.default_rng(seed).permutation(np.array(lengths))[:number].tolist()


def padded(lengths: Sequence[int], rows: int) -> Iterator[Batch]:
    """Micro-batches in the given order, each padded to its longest document."""
    for i in range(0, len(lengths) - rows + 1, rows):
        sizes = torch.tensor(lengths[i : i + rows])
        mask = (torch.arange(int(sizes.max())) < sizes[:, None]).long()
        yield {"input_ids": _ids(*mask.shape) * mask, "attention_mask": mask}


def padding_free(lengths: Sequence[int], documents: int) -> Iterator[Batch]:
    """Micro-batches flattened into one row each."""
    for i in range(0, len(lengths) - documents + 1, documents):
        yield _row(lengths[i : i + documents])


def packed(lengths: Sequence[int], size: int) -> Iterator[Batch]:
    """Rows of at most ``size`` tokens, packed by TRL (best fit decreasing), one row a batch."""
    from datasets import Dataset
    from trl import pack_dataset

    rows = pack_dataset(Dataset.from_dict({"input_ids": [[1] * length for length in lengths]}), size, strategy="bfd")
    for row in rows["seq_lengths"]:
        yield _row(row)


def _row(lengths: Sequence[int]) -> Batch:
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return {"input_ids": _ids(1, positions.shape[1]), "position_ids": positions}


def _ids(rows: int, width: int) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, width))
