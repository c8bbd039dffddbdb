"""Documents to padded tensors."""

from collections.abc import Mapping, Sequence

import torch

from neftune.records import Document

IGNORED = -100
"""The label that cross-entropy leaves out."""


class Collator:
    """Turns rows that name documents by index into one right-padded batch.

    The trainer moves indices around and the tokens stay here, so that nothing re-tokenises or re-labels them.

    Args:
        documents: What the indices refer to.
        pad_token_id: Fills rows up to the longest; masked in attention and labels.
    """

    def __init__(self, documents: Sequence[Document], *, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self._input_ids = [torch.tensor(document.input_ids) for document in documents]
        self._labels = [
            torch.tensor(document.input_ids).masked_fill(~torch.tensor(document.loss_mask), IGNORED)
            for document in documents
        ]

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        """A batch of the documents that ``rows`` name.

        Args:
            rows: Each with the "index" of a document.

        Returns:
            "input_ids", "attention_mask" and "labels", each (B, L); labels unshifted, as models expect them.
        """
        ids = [self._input_ids[row["index"]] for row in rows]
        labels = [self._labels[row["index"]] for row in rows]
        lengths = torch.tensor([len(row) for row in ids])
        input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }
