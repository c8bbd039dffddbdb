import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neftune.errors import DataError
from neftune.evaluation.scoring.rows import Cost, Limits, cut_rows, lay_out
from neftune.evaluation.scoring.tree import build_tree, decode, encode, make_request

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=9)
PAIRS = st.lists(st.tuples(TOKENS, st.lists(st.integers(0, 3), min_size=1, max_size=4)), min_size=1, max_size=12)


def requests_of(pairs, max_length=11):
    return list(dict.fromkeys(make_request(context, continuation, max_length) for context, continuation in pairs))


def sequence_to(tree, slot):
    """A slot's tokens from the root, read off the tree alone."""
    tokens = []
    wanted = tree.depths[slot]
    for at in range(slot, -1, -1):
        if tree.depths[at] == wanted:
            tokens.append(int(tree.tokens[at]))
            wanted -= 1
    return tokens[::-1]


def test_bytes_sort_as_tokens_do():
    assert encode([1, 255]) < encode([1, 256]) < encode([2])
    assert decode(encode([7, 70000])).tolist() == [7, 70000]


def test_a_request_is_cut_from_the_left_and_its_last_token_is_no_input():
    request = make_request([1, 2, 3, 4], [5, 6], 3)
    assert decode(request.tokens).tolist() == [3, 4, 5, 6]
    assert request.input_length == 3


@pytest.mark.parametrize(
    ("context", "continuation", "message"),
    [([], [1], "no context"), ([1], [], "no continuation"), ([1], [1, 2, 3, 4], "got 4")],
)
def test_a_request_without_meaning_is_refused(context, continuation, message):
    with pytest.raises(DataError, match=message):
        make_request(context, continuation, 3)


def test_shared_prefixes_stand_once():
    requests = requests_of([([1, 2, 3], [4]), ([1, 2, 3], [5]), ([1, 2, 3], [5, 6]), ([1, 2], [3]), ([1, 9], [4])])
    tree = build_tree(requests)
    assert sorted(sequence_to(tree, slot) for slot in range(len(tree.tokens))) == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 3, 5],
        [1, 9],
    ]


@given(PAIRS)
def test_the_tree_holds_every_prefix_once_and_every_query(pairs):
    requests = requests_of(pairs)
    tree = build_tree(requests)
    paths = [tuple(sequence_to(tree, slot)) for slot in range(len(tree.tokens))]
    inputs = [decode(request.tokens)[:-1].tolist() for request in requests]
    assert len(set(paths)) == len(paths)
    assert set(paths) == {tuple(one[:stop]) for one in inputs for stop in range(1, len(one) + 1)}
    for index, request in enumerate(requests):
        queries = tree.queries_of(index)
        tokens = decode(request.tokens).tolist()
        assert tree.query_targets[queries].tolist() == tokens[-request.num_scored :]
        stops = range(len(tokens) - request.num_scored, len(tokens))
        assert [paths[slot] for slot in tree.query_slots[queries]] == [tuple(tokens[:stop]) for stop in stops]
    assert len(set(zip(tree.query_slots, tree.query_targets, strict=True))) == len(tree.query_slots)


@given(PAIRS, st.integers(1, 20), st.integers(1, 5))
def test_rows_see_exactly_their_ancestors(pairs, row_tokens, row_logits):
    """The cache is played with slot numbers in the place of keys: what a token sees must be its own path."""
    tree = build_tree(requests_of(pairs))
    rows = cut_rows(tree, Limits(row_tokens, row_logits), Cost(2.0, 0.1))
    assert [row.start for row in rows] == [0, *(row.stop for row in rows[:-1])]
    assert rows[-1].stop == len(tree.tokens)
    cache: list[int] = []
    for row in rows:
        assert row.stop - row.start <= row_tokens
        asked = np.unique(tree.query_slots)
        assert ((asked >= row.start) & (asked < row.stop)).sum() <= row_logits
        assert len(cache) == row.prefix
        layout = lay_out(tree, row)
        slots = np.array([*cache, *range(row.start, row.stop)])
        visible = layout.visible
        if visible is None:
            visible = np.tri(len(slots), dtype=bool)
        for number, seen in enumerate(visible):
            assert tree.tokens[slots[seen]].tolist() == sequence_to(tree, row.start + number)
        cache = [*cache[: layout.kept], *(row.start + layout.moved).tolist()]


def test_a_prefix_that_pays_is_not_cut_from_its_branches():
    """Two questions that share nothing are not put into one row: each would attend to the other in vain."""
    pairs = [([1] * 60, [1, choice]) for choice in range(4)] + [([2] * 60, [1, choice]) for choice in range(4)]
    rows = cut_rows(build_tree(requests_of(pairs, 200)), Limits(200, 200), Cost(5.0, 0.05))
    assert [(row.start, row.stop) for row in rows] == [(0, 61), (61, 122)]
    cheap = cut_rows(build_tree(requests_of(pairs, 200)), Limits(200, 200), Cost(5.0, 0.0))
    assert [(row.start, row.stop) for row in cheap] == [(0, 122)]
