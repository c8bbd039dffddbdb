"""Where the tree is cut into rows: one row is one forward pass."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from neftune.evaluation.scoring.tree import TokenTree

_GRAIN = 128
"""Segments are divided into pieces of at most so many tokens, between which rows may be cut."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a forward pass.

    Attributes:
        row_tokens: Most tokens in a row.
        row_logits: Most positions of a row at which logits are computed.
    """

    row_tokens: int
    row_logits: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a row of N tokens after a prefix of P costs: N + start + attention * N * (P + N).

    The unit is a token's multiplication with the model's matrices.

    Attributes:
        start: Cost of a forward pass of its own.
        attention: Cost of one token's attention to one other.
    """

    start: float
    attention: float


@dataclass(frozen=True, slots=True)
class Row:
    """Slots that are run together, after the prefix that the first one needs.

    Attributes:
        start: First slot.
        stop: Slot after the last.
        prefix: Tokens before the first slot, all of them in the cache.
    """

    start: int
    stop: int
    prefix: int


def cut_rows(tree: TokenTree, limits: Limits, cost: Cost) -> list[Row]:
    """The cheapest rows within the limits, by dynamic programming over the places where a row may end."""
    pieces = _pieces(tree, min(_GRAIN, limits.row_tokens, limits.row_logits))
    asked = np.searchsorted(np.unique(tree.query_slots), pieces)
    prefixes = tree.depths[pieces[:-1]]
    segments = np.searchsorted(tree.segment_starts, pieces[:-1], side="right")
    num = len(pieces) - 1
    best, origin = np.zeros(num + 1), np.zeros(num + 1, dtype=np.int64)
    first = 0
    for stop in range(1, num + 1):
        while pieces[stop] - pieces[first] > limits.row_tokens or asked[stop] - asked[first] > limits.row_logits:
            first += 1
        lengths = pieces[stop] - pieces[first:stop]
        ahead = prefixes[first:stop]
        plain = (ahead == 0) & (segments[first:stop] == segments[stop - 1])
        attended = np.where(plain, lengths / 2, ahead + lengths)
        total = best[first:stop] + lengths + cost.start + cost.attention * lengths * attended
        origin[stop] = first + total.argmin()
        best[stop] = total.min()
    ends = [num]
    while ends[-1] > 0:
        ends.append(int(origin[ends[-1]]))
    ends.reverse()
    return [Row(int(pieces[a]), int(pieces[b]), int(prefixes[a])) for a, b in pairwise(ends)]


def _pieces(tree: TokenTree, grain: int) -> np.ndarray:
    """First slot of every piece, then the number of slots."""
    starts = [
        np.arange(start, stop, grain)
        for start, stop in zip(tree.segment_starts[:-1], tree.segment_starts[1:], strict=True)
    ]
    return np.concatenate([*starts, tree.segment_starts[-1:]])


@dataclass(frozen=True, slots=True)
class Layout:
    """Who may look at whom in a row, and what is left of it for the next one. N tokens, P prefix.

    Attributes:
        visible: [N, P + N]; None where every token sees exactly those before it and there is no prefix.
        kept: Tokens of the prefix that the next row needs.
        moved: Tokens of this row that the next row needs after those, in the order of their depth.
    """

    visible: np.ndarray | None
    kept: int
    moved: np.ndarray


def lay_out(tree: TokenTree, row: Row) -> Layout:
    """The row's mask, and the path from the root to the slot after the row."""
    num = row.stop - row.start
    first, last = np.searchsorted(tree.segment_starts, [row.start, row.stop - 1], side="right") - 1
    visible = np.zeros((num, row.prefix + num), dtype=bool)
    above = np.zeros(int(tree.depths[row.start : row.stop].max()) + 1, dtype=np.int64)
    kept = row.prefix
    for segment in range(first, last + 1):
        start = max(int(tree.segment_starts[segment]), row.start)
        stop = min(int(tree.segment_starts[segment + 1]), row.stop)
        depth = int(tree.depths[start])
        kept = min(kept, depth)
        place = slice(start - row.start, stop - row.start)
        visible[place, :kept] = True
        visible[place, row.prefix + above[kept:depth]] = True
        visible[place, row.prefix + place.start : row.prefix + place.stop] = np.tri(stop - start, dtype=bool)
        above[depth : depth + stop - start] = np.arange(place.start, place.stop)
    after = int(tree.depths[row.stop]) if row.stop < len(tree.depths) else 0
    kept = min(kept, after)
    plain = row.prefix == 0 and first == last
    return Layout(None if plain else visible, kept, above[kept:after].copy())
