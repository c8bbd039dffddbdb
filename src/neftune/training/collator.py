"""Documents to padded tensors."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from neftune.noise.given import RESPONSE_MASK
from neftune.records import Document

IGNORED = -100
"""The label that cross-entropy leaves out."""

BLANK = -1
"""Index of no document: it fills up what the ranks of a run share."""


class Collator:
    """Turns rows that name documents by index into one right-padded batch.

    The trainer moves indices around and the tokens stay here, so that nothing re-tokenises or re-labels them.

    Args:
        documents: What the indices refer to.
        pad_token_id: Fills rows up to the longest; masked in attention and labels.
        loss_on: "response", as the documents' masks say, or "all" of a document but its first token, which nothing
            predicts; then the batch tells the noise apart where the response is.
    """

    def __init__(
        self, documents: Sequence[Document], *, pad_token_id: int, loss_on: Literal["response", "all"] = "response"
    ) -> None:
        self.pad_token_id = pad_token_id
        self.loss_on = loss_on
        self._input_ids = [torch.tensor(document.input_ids) for document in documents]
        self._responses = [torch.tensor(document.loss_mask) for document in documents]

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        """A batch of the documents that ``rows`` name; where they name none, one token that trains nothing.

        Args:
            rows: Each with the "index" of a document, or `BLANK`.

        Returns:
            "input_ids", "attention_mask" and "labels", each (B, L); labels unshifted, as models expect them. With
            the loss on all tokens also "response_mask", (B, L), which models never see.
        """
        indices = [row["index"] for row in rows if row["index"] != BLANK]
        ids = [self._input_ids[index] for index in indices] or [torch.tensor([self.pad_token_id])]
        responses = [self._responses[index] for index in indices] or [torch.tensor([False])]
        trained = responses if self.loss_on == "response" else [torch.arange(len(row)) > 0 for row in ids]
        labels = [row.masked_fill(~mask, IGNORED) for row, mask in zip(ids, trained, strict=True)]
        lengths = torch.tensor([len(row) for row in ids])
        input_ids = _padded(ids, self.pad_token_id)
        told = {} if self.loss_on == "response" else {RESPONSE_MASK: _padded(responses, False)}
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            "labels": _padded(labels, IGNORED),
            **told,
        }


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
