"""Loss per document with the noise off."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from neftune.errors import DataError, ModelError
from neftune.records import Document


def example_losses(model: Any, documents: Sequence[Document], *, batch_size: int = 32) -> list[float]:
    """Mean negative log-likelihood per document over the tokens that are trained on, in nats per token.

    Evaluation mode, no gradients, so neither noise nor dropout; the model's mode is put back, also after an error.
    Documents are batched by length and padded on the right. The result does not depend on the batch size. A loss
    that is NaN or infinite is returned as it is.

    Args:
        model: A causal language model of transformers, with or without PEFT adapters.
        documents: At least one, each with at least one token after the first whose loss_mask is True.
        batch_size: Documents per forward pass, >= 1.

    Returns:
        One loss per document, in the order given.

    Raises:
        DataError: No documents, or one without a token to predict.
        ModelError: An encoder-decoder model.
    """
    _check(model, documents)
    if batch_size < 1:
        raise DataError(f"batch_size must be >= 1, got {batch_size}.")
    order = sorted(range(len(documents)), key=lambda index: len(documents[index].input_ids))
    losses = [0.0] * len(documents)
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            for index, loss in zip(indices, _batch_losses(model, [documents[i] for i in indices]), strict=True):
                losses[index] = loss
    return losses


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Every module in evaluation mode inside, and each back in its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def base_model(model: Any) -> Any:
    """The transformers model under PEFT adapters, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_decoder_only(model: Any) -> None:
    """Refuse a model that does not continue its own prompt.

    Raises:
        ModelError: An encoder-decoder model.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            "Evaluation needs a causal language model, got the encoder-decoder "
            f"{type(base_model(model)).__name__}. Load a decoder-only checkpoint."
        )


def _check(model: Any, documents: Sequence[Document]) -> None:
    check_decoder_only(model)
    if not documents:
        raise DataError("Losses need at least one document, got none. Check the part's examples.")
    for document in documents:
        if not any(document.loss_mask[1:]):
            raise DataError(
                f"Each document needs a response token to predict, got none in example {document.example_id}. "
                "Drop it; neftune.data.batches.tokenise does."
            )


def _batch_losses(model: Any, documents: Sequence[Document]) -> list[float]:
    """Losses of one batch. B documents, L padded length, V vocabulary."""
    length = max(len(document.input_ids) for document in documents)
    ids_BL = torch.zeros(len(documents), length, dtype=torch.long)
    real_BL = torch.zeros_like(ids_BL)
    wanted_BL = torch.zeros(len(documents), length, dtype=torch.bool)
    for row, document in enumerate(documents):
        num = len(document.input_ids)
        ids_BL[row, :num] = torch.tensor(document.input_ids)
        real_BL[row, :num] = 1
        wanted_BL[row, : num - 1] = torch.tensor(document.loss_mask[1:])
    device = model.device
    kept = wanted_BL.any(dim=0).nonzero().squeeze(1)
    keep = {"logits_to_keep": kept.to(device)} if _keeps_logits(model) else {}
    output = model(input_ids=ids_BL.to(device), attention_mask=real_BL.to(device), use_cache=False, **keep)
    logits_BKV = output.logits if keep else output.logits[:, kept.to(device)]
    wanted_BK = wanted_BL[:, kept]
    targets = ids_BL[:, 1:].new_zeros(ids_BL.shape)
    targets[:, :-1] = ids_BL[:, 1:]
    nll = functional.cross_entropy(
        logits_BKV[wanted_BK.to(device)].float(), targets[wanted_BL].to(device), reduction="none"
    )
    counts = wanted_BL.sum(dim=1).tolist()
    return [float(part.double().mean()) for part in nll.cpu().split(counts)]


def _keeps_logits(model: Any) -> bool:
    """Whether the model can compute logits at chosen positions only."""
    return "logits_to_keep" in inspect.signature(base_model(model).forward).parameters
