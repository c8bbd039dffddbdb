"""Modules that are none of transformers': the caller names the embedding."""

import pytest
import torch
from torch import Tensor, nn

import neftune
from neftune.errors import NoiseError

WIDTH, ALPHA = 16, 5.0
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 0, 0, 0]])


class Plain(nn.Module):
    """A table for words, one for places, and nothing that transformers knows."""

    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, WIDTH, padding_idx=padding_idx)
        self.places = nn.Embedding(50, WIDTH)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        places = torch.arange(input_ids.shape[-1]).expand_as(input_ids)
        return self.words(input=input_ids), self.places(places)


def noise_of(model: nn.Module, *args: Tensor, embeddings: object = "words", **kwargs: Tensor) -> Tensor:
    with neftune.attach(model, ALPHA, embeddings=embeddings) as handle:
        handle.set_epoch(0)
        noisy = model(*args, **kwargs)[0].detach()
        with handle.paused():
            clean = model(*args, **kwargs)[0].detach()
    return noisy - clean


@pytest.mark.parametrize("named", ["words", ["words"]])
def test_a_mask_tells_padding_and_other_tables_are_left_alone(named):
    model = Plain()
    noise = noise_of(model, IDS, (IDS != 0).long(), embeddings=named)
    assert noise[1, :3].any(dim=-1).all()
    assert not noise[1, 3:].any()
    for row, length in ((0, 6), (1, 3)):
        bound = ALPHA / (length * WIDTH) ** 0.5
        assert 0.9 * bound < noise[row].abs().max() <= bound * 1.001
    with neftune.attach(model, ALPHA, embeddings=model.words):
        assert torch.equal(model(IDS)[1], model.places(torch.arange(6).expand(2, 6)))


def test_the_tables_padding_idx_tells_padding_where_nothing_else_does():
    by_table, by_mask = noise_of(Plain(padding_idx=0), IDS), noise_of(Plain(), IDS, (IDS != 0).long())
    assert torch.allclose(by_table, by_mask, atol=1e-6)
    assert noise_of(Plain(), IDS)[1, 3:].any(), "without either every id is text"


def test_a_single_row_without_rows():
    flat, rows = noise_of(Plain(), IDS[0]), noise_of(Plain(), IDS[:1])
    assert flat.shape == (6, WIDTH)
    assert torch.allclose(flat, rows[0], atol=1e-6)
    packed = noise_of(Plain(), IDS.flatten()[:9], cu_seqlens=torch.tensor([0, 6, 9]))
    alone = noise_of(Plain(), IDS[1, :3])
    assert torch.allclose(packed, torch.cat((flat, alone)), atol=1e-6)


def test_each_of_several_tables_has_its_own_noise():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Embedding(50, 64), nn.Embedding(50, 64)

        def forward(self, input_ids: Tensor) -> Tensor:
            return torch.stack((self.first(input_ids), self.second(input_ids)))

    model, ids = Both(), torch.arange(1, 31)[None]
    clean = model(ids)
    with neftune.attach(model, ALPHA, embeddings=["first", "second"]) as handle:
        noise = (model(ids) - clean).detach()
        assert handle.realised().num_documents == 2
    assert noise[0].any()
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.1


def test_one_table_for_two_texts_of_one_forward():
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(50, WIDTH)

        def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
            return self.words(first), self.words(second)

    model = Twins()
    with neftune.attach(model, ALPHA, embeddings="words") as handle:
        model(IDS[:1], IDS[1:, :3])
        assert handle.realised().num_tokens == 9


@pytest.mark.parametrize(
    ("ids", "received"),
    [
        (torch.ones(1, 2, 3, dtype=torch.long), r"int64 of shape \[1, 2, 3\]"),
        (torch.ones(2, 3), r"float32 of shape \[2"),
    ],
)
def test_ids_that_are_no_rows_of_tokens(ids, received):
    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, WIDTH)
            self.table.forward = lambda ids: torch.zeros(*ids.shape, WIDTH)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids)

    with (
        neftune.attach(model := Look(), ALPHA, embeddings="table"),
        pytest.raises(NoiseError, match=rf"must turn ids of shape \(rows, positions\) .* got torch\.{received}"),
    ):
        model(ids)


def test_a_named_table_that_is_not_reached():
    model = Plain()
    model.forward = lambda input_ids: model.places(input_ids)
    with (
        neftune.attach(model, ALPHA, embeddings=["words"]),
        pytest.raises(NoiseError, match="must reach Plain's Embedding in every training forward"),
    ):
        model(IDS)


def test_its_ratio_is_that_of_the_named_table():
    model = Plain()
    nn.init.normal_(model.words.weight, std=0.02)
    ratio = neftune.noise_to_signal(model, ALPHA, length=20, embeddings="words")
    rms = model.words.weight.square().mean().sqrt().item()
    assert ratio == pytest.approx(ALPHA / (3 * 20 * WIDTH) ** 0.5 / rms)
    assert neftune.alpha_for(model, nsr=ratio, length=20, embeddings=model.words) == pytest.approx(ALPHA)
    with neftune.attach(model, nsr=ratio, length=20, embeddings="words") as handle:
        assert handle.alpha == pytest.approx(ALPHA)
