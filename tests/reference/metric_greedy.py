"""Greedy decoding as one would write it on a blackboard: one prompt, no cache, no padding."""

from collections.abc import Sequence
from typing import Any

import torch


def slow_greedy(
    model: Any,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    ends: Sequence[int],
    penalty: float = 1.0,
    held_back: int = 0,
) -> tuple[list[int], bool]:
    """New ids without the end token, and whether an end token came."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        for token in set(ids):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        if len(ids) - len(prompt) < held_back:
            logits[list(ends)] = -float("inf")
        token = int(logits.argmax())
        if token in ends:
            return ids[len(prompt) :], True
        ids.append(token)
    return ids[len(prompt) :], False


def slow_loss(model: Any, input_ids: Sequence[int], loss_mask: Sequence[bool]) -> float:
    """Mean negative log-likelihood of the marked tokens, token by token."""
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([list(input_ids)]), use_cache=False).logits[0].double().log_softmax(-1)
    wanted = [position for position in range(1, len(input_ids)) if loss_mask[position]]
    return -sum(float(log_probs[position - 1, input_ids[position]]) for position in wanted) / len(wanted)
