import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neftune.errors import NoiseError
from neftune.noise.documents import document_keys, read_layout
from neftune.noise.hashing import signed
from tests.reference import noise_oracle

CPU = torch.device("cpu")


def spans(layout) -> list[list[tuple[int, int, int]]]:
    """(document, position, length) of each real token, row by row."""
    cells = torch.stack((layout.document, layout.position, layout.length), -1)
    return [[tuple(cell) for cell in row[real].tolist()] for row, real in zip(cells, layout.real, strict=True)]


def test_without_anything_each_row_is_a_document():
    layout = read_layout((2, 3), CPU)
    assert spans(layout) == [[(0, 0, 3), (0, 1, 3), (0, 2, 3)], [(1, 0, 3), (1, 1, 3), (1, 2, 3)]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32, torch.float32])
def test_mask_on_either_side(dtype):
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]]).to(dtype)
    layout = read_layout((2, 3), CPU, attention_mask=mask)
    assert spans(layout) == [[(0, 0, 2), (0, 1, 2)], [(1, 0, 2), (1, 1, 2)]]


def test_hole_in_a_mask_does_not_divide():
    layout = read_layout((1, 4), CPU, attention_mask=torch.tensor([[1, 0, 1, 1]]))
    assert spans(layout) == [[(0, 0, 3), (0, 1, 3), (0, 2, 3)]]
    # Position ids that count real tokens put a filler on the hole.
    layout = read_layout(
        (1, 4), CPU, attention_mask=torch.tensor([[1, 1, 0, 1]]), position_ids=torch.tensor([[0, 1, 1, 2]])
    )
    assert spans(layout) == [[(0, 0, 3), (0, 1, 3), (0, 2, 3)]]


def test_position_ids_that_restart():
    positions = torch.tensor([[0, 1, 2, 0, 0, 1]])
    layout = read_layout((1, 6), CPU, position_ids=positions)
    assert spans(layout) == [[(0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 0, 1), (2, 0, 2), (2, 1, 2)]]


def test_position_ids_of_one_row_serve_all_rows():
    layout = read_layout((2, 3), CPU, position_ids=torch.tensor([[0, 1, 0]]))
    assert [len(row) for row in spans(layout)] == [3, 3]
    assert spans(layout)[1] == [(2, 0, 2), (2, 1, 2), (3, 0, 1)]


@pytest.mark.parametrize("filler", [0, 1])
def test_left_padding_with_position_ids(filler):
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    positions = torch.tensor([[filler, filler, 0, 1, 2]])
    layout = read_layout((1, 5), CPU, attention_mask=mask, position_ids=positions)
    assert [cell[1:] for cell in spans(layout)[0]] == [(0, 3), (1, 3), (2, 3)]
    assert len({cell[0] for cell in spans(layout)[0]}) == 1


def test_mask_that_numbers_its_documents():
    layout = read_layout((1, 6), CPU, attention_mask=torch.tensor([[1, 1, 2, 3, 3, 0]]))
    assert [cell[1:] for cell in spans(layout)[0]] == [(0, 2), (1, 2), (0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("mask", "lengths"),
    [([3, 3, 1, 1, 2], [2, 2, 1]), ([0, 2, 0, 2, 1], [2, 1]), ([1, 0, 2, 0, 2], [1, 2]), ([1, 0, 1, 1, 0], [3])],
)
def test_any_change_of_a_masks_numbers_begins_a_document(mask, lengths):
    layout = read_layout((1, 5), CPU, attention_mask=torch.tensor([mask]))
    assert layout.lengths[layout.lengths > 0].tolist() == lengths


def test_sequence_numbers():
    layout = read_layout((1, 6), CPU, seq_idx=torch.tensor([[0, 0, 1, 1, 1, -1]], dtype=torch.int32))
    assert [cell[1:] for cell in spans(layout)[0]] == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert layout.real.tolist() == [[True] * 5 + [False]]


@pytest.mark.parametrize("bounds", [[0], [], [0, 5, 3], [-1, 4], [0, 3, 8], [0, 9, 7]])
def test_impossible_boundaries_are_refused_with_their_values(bounds):
    with pytest.raises(NoiseError, match=r"boundaries that never fall.*at most the row's 7 tokens") as caught:
        read_layout((1, 7), CPU, cu_seqlens=torch.tensor(bounds, dtype=torch.int64))
    assert f"got {bounds}. Pass" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_boundaries(dtype):
    layout = read_layout((1, 7), CPU, cu_seqlens=torch.tensor([0, 2, 2, 5], dtype=dtype))
    assert [cell[1:] for cell in spans(layout)[0]] == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert layout.real.tolist() == [[True] * 5 + [False] * 2]


def test_rows_of_padding_alone_hold_no_document():
    layout = read_layout((2, 2), CPU, attention_mask=torch.tensor([[0, 0], [1, 1]]))
    assert (layout.lengths > 0).sum() == 1
    assert spans(layout)[0] == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attention_mask": torch.ones(2, 1, 3, 3)}, "attention_mask must have the shape of the tokens, [2, 3]"),
        ({"attention_mask": torch.ones(2, 5)}, "got [2, 5]"),
        ({"position_ids": torch.zeros(3, 2, 3, dtype=torch.long)}, "position_ids must have the shape"),
        ({"seq_idx": torch.zeros(6)}, "seq_idx must have the shape of the tokens, [2, 3], got [6]"),
        ({"cu_seqlens": torch.tensor([0, 3])}, "cu_seqlens must be 1-D and describe a single row"),
        ({"cu_seqlens": torch.tensor([[0, 3]])}, "Flatten the batch into one row"),
    ],
)
def test_unreadable_layouts_are_refused(given, words):
    with pytest.raises(NoiseError) as caught:
        read_layout((2, 3), CPU, **given)
    assert words in str(caught.value)


tokens = st.lists(st.integers(0, 200_000), min_size=1, max_size=12)


@given(st.lists(tokens, min_size=1, max_size=5))
def test_keys_equal_the_oracle_and_see_only_their_document(documents):
    ids = torch.tensor([[token for document in documents for token in document]])
    positions = torch.tensor([[i for document in documents for i in range(len(document))]])
    layout = read_layout(tuple(ids.shape), CPU, position_ids=positions)
    keys = document_keys(ids, layout)[0].tolist()
    expected = [signed(noise_oracle.document_key(document)) for document in documents for _ in document]
    assert keys == expected


@given(tokens, st.randoms())
def test_keys_depend_on_order_and_on_every_token(document, random):
    def key(ids: list[int]) -> int:
        return int(document_keys(torch.tensor([ids]), read_layout((1, len(ids)), CPU))[0, 0])

    shuffled = random.sample(document, len(document))
    assert (key(shuffled) == key(document)) == (shuffled == document)
    place = random.randrange(len(document))
    assert key([*document[:place], document[place] + 1, *document[place + 1 :]]) != key(document)
    assert key([*document, 0]) != key(document)
