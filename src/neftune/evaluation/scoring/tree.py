"""Requests as one tree of token ids, in which every shared prefix stands once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neftune.errors import DataError

_TOKEN = np.dtype(">u4")
"""Big-endian, so that byte strings sort as the token sequences do."""


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids whose last `num_scored` are to be scored, given those before them.

    Attributes:
        tokens: Context and continuation after truncation, 4 bytes a token, big-endian.
        num_scored: Tokens of the continuation.
    """

    tokens: bytes
    num_scored: int

    @property
    def input_length(self) -> int:
        """Tokens that a model reads: all but the last."""
        return len(self.tokens) // _TOKEN.itemsize - 1


def encode(tokens: Sequence[int]) -> bytes:
    """Token ids as bytes that sort like the sequences."""
    return np.asarray(tokens, dtype=_TOKEN).tobytes()


def decode(tokens: bytes) -> np.ndarray:
    """Token ids of `encode`, int64."""
    return np.frombuffer(tokens, dtype=_TOKEN).astype(np.int64)


def make_request(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Request:
    """A request as lm-eval's Hugging Face backend would run it: cut from the left to `max_length` inputs.

    Raises:
        DataError: No context, no continuation, or a continuation longer than the model's context.
    """
    if not context or not continuation:
        empty = "continuation" if context else "context"
        raise DataError(
            f"A request needs at least one token of context and of continuation, got no {empty}. "
            "Check the task's doc_to_text and doc_to_choice, or the tokenizer."
        )
    if len(continuation) > max_length:
        raise DataError(
            f"A continuation must fit into the model's {max_length} tokens, got {len(continuation)}. "
            "Shorten the choice, or give a model with a longer context."
        )
    kept = [*context, *continuation][-(max_length + 1) :]
    return Request(encode(kept), len(continuation))


@dataclass(frozen=True, slots=True)
class TokenTree:
    """The inputs of all requests, merged.

    S slots (the tree's positions in depth-first order), Q queries, G segments, R requests.

    A segment is the part of one input that no earlier input has; inputs are in lexicographic order, so all that stands
    above a segment is a prefix of the input before it.

    Attributes:
        tokens: Token id of each slot, [S].
        depths: Position of each slot in its sequence, [S].
        segment_starts: First slot of each segment, then S, [G + 1].
        query_slots: After which slot a token's probability is asked for, ascending, [Q].
        query_targets: Which token, [Q].
        request_queries: The queries of all requests, one after another.
        request_starts: Where each request's queries begin, then their number, [R + 1].
    """

    tokens: np.ndarray
    depths: np.ndarray
    segment_starts: np.ndarray
    query_slots: np.ndarray
    query_targets: np.ndarray
    request_queries: np.ndarray
    request_starts: np.ndarray

    def queries_of(self, request: int) -> np.ndarray:
        """Indices of a request's queries, in the order of its tokens."""
        return self.request_queries[self.request_starts[request] : self.request_starts[request + 1]]

    def last_slots(self) -> np.ndarray:
        """The slot after which each request is finished, [R]."""
        return self.query_slots[self.request_queries[self.request_starts[1:] - 1]]


def build_tree(requests: Sequence[Request]) -> TokenTree:
    """The tree of at least one request. Every slot is the input of some request."""
    by_input: dict[bytes, list[int]] = {}
    for index, request in enumerate(requests):
        by_input.setdefault(request.tokens[: -_TOKEN.itemsize], []).append(index)
    path = np.zeros(max(request.input_length for request in requests), dtype=np.int64)
    pieces: list[np.ndarray] = []
    branches: list[int] = []
    asked: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    num_slots, before = 0, np.zeros(0, dtype=np.int64)
    for encoded in sorted(by_input):
        tokens = decode(encoded)
        branch = shared_length(before, tokens)
        pieces.append(tokens[branch:])
        branches.append(branch)
        path[branch : len(tokens)] = np.arange(num_slots, num_slots + len(tokens) - branch)
        num_slots += len(tokens) - branch
        before = tokens
        for index in by_input[encoded]:
            num_scored = requests[index].num_scored
            sequence = decode(requests[index].tokens)
            asked[index] = path[len(tokens) - num_scored : len(tokens)].copy(), sequence[-num_scored:]
    slots, targets, starts = _merge([asked[index] for index in range(len(requests))])
    keys, which = np.unique(slots * 2**32 + targets, return_inverse=True)
    lengths = np.array([len(piece) for piece in pieces])
    segment_starts = np.concatenate([[0], np.cumsum(lengths)])
    own_depth = np.arange(num_slots) - np.repeat(segment_starts[:-1], lengths)
    return TokenTree(
        tokens=np.concatenate(pieces),
        depths=own_depth + np.repeat(np.array(branches), lengths),
        segment_starts=segment_starts,
        query_slots=keys >> 32,
        query_targets=keys & (2**32 - 1),
        request_queries=which.reshape(-1),
        request_starts=starts,
    )


def _merge(asked: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *(len(slots) for slots, _ in asked)])
    return np.concatenate([slots for slots, _ in asked]), np.concatenate([tokens for _, tokens in asked]), starts


def shared_length(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two sequences share from their beginning."""
    length = min(len(first), len(second))
    differing = first[:length] != second[:length]
    return int(differing.argmax()) if differing.any() else length
