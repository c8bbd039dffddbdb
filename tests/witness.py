"""A callback that stands beside ours and checks every embedding while a real trainer runs, by the slow reference."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import TrainerCallback

from tests.reference.noise_oracle import document_noise


@dataclass(frozen=True)
class Pass:
    """One call of the embedding: whether it was one that trains, its exposure and the documents in it."""

    trains: bool
    draw: int
    documents: tuple[tuple[int, ...], ...]

    @property
    def lengths(self) -> list[int]:
        return [len(document) for document in self.documents]


@functools.cache
def reference(document: tuple[int, ...], width: int, alpha: float, draw: int) -> Tensor:
    """What a document's embeddings receive at this exposure (L, D), seed 0, in Python integers."""
    return torch.tensor(document_noise(list(document), width, alpha=alpha, draw=draw))


class Witness(TrainerCallback):
    """Sees the model's embedding in every forward of a training, and fails at the first wrong number.

    Where gradients are on in training mode, each document's rows must be its clean rows plus the reference's noise for
    its own tokens and length, rounded once, and padding must be clean; in every other forward all of it must be clean.
    All to the bit. Where documents lie is read here from the mask, or from positions that restart at 0 and ids
    that are not 0, which pads.

    Args:
        alpha: The noise that there must be.
        per_step: Whether the optimiser step is the exposure, not the epoch.
    """

    def __init__(self, alpha: float, *, per_step: bool = False) -> None:
        self.alpha = alpha
        self.passes: list[Pass] = []
        self.generations = 0
        self._per_step = per_step
        self._draw = self._epoch = -1
        self._given: dict[str, Any] = {}
        self._handles: list[Any] = []

    @property
    def noised(self) -> list[Pass]:
        return [seen for seen in self.passes if seen.trains]

    @property
    def clean(self) -> list[Pass]:
        return [seen for seen in self.passes if not seen.trains]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        embedding = model.get_input_embeddings()
        backbone = next(module for module in model.modules() if getattr(module, "embed_tokens", None) is embedding)
        self._handles = [
            backbone.register_forward_pre_hook(self._call, with_kwargs=True),
            embedding.register_forward_hook(self._embed),
        ]
        self._epoch = -1

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epoch = self._draw = max(self._epoch + 1, int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._per_step:
            self._draw = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _call(self, module: object, args: object, kwargs: dict[str, Any]) -> None:
        self._given = kwargs

    def _embed(self, embedding: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        ids = args[0]
        # The embedding alone, without hooks: its table's rows.
        expected = functional.embedding(ids, embedding.weight.detach()).float()
        if self._is_generation():
            self.generations += 1
            assert torch.equal(output, expected.to(output.dtype)), "generation must be clean"
            return
        trains = embedding.training and torch.is_grad_enabled()
        documents = []
        for places in self._documents(ids):
            document = tuple(ids[places].tolist())
            documents.append(document)
            if trains:
                expected[places] += reference(document, output.shape[-1], self.alpha, self._draw)
        self.passes.append(Pass(trains, self._draw, tuple(documents)))
        assert torch.equal(output, expected.to(output.dtype)), f"wrong noise in {self.passes[-1]}"

    def _is_generation(self) -> bool:
        return not torch.is_grad_enabled() and bool(self._given.get("use_cache"))

    def _documents(self, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        mask, positions = self._given.get("attention_mask"), self._given.get("position_ids")
        for row in range(ids.shape[0]):
            real = ids[row] != 0 if mask is None else mask[row]
            places = real.nonzero()[:, 0]
            starts = [0] if positions is None or mask is not None else (positions[row] == 0).nonzero()[:, 0].tolist()
            for one, after in zip(starts, [*starts[1:], ids.shape[1]], strict=True):
                inside = places[(places >= one) & (places < after)]
                if len(inside):
                    yield torch.full_like(inside, row), inside
