"""METHOD properties 1 to 3: the noise belongs to the document, and to nothing else of the batch."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neftune
from tests.tiny_families import make, without_dropout

WIDTH = 12
documents_strategy = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=17), min_size=1, max_size=6)


@dataclass(frozen=True)
class Laid:
    """Documents laid into a batch: tensors for perturb, and where each document's tokens ended up."""

    given: dict[str, torch.Tensor]
    shape: tuple[int, int]
    places: list[tuple[int, int]]


def padded(documents: list[list[int]], *, side: str, extra: int, position_ids: bool, dtype: torch.dtype) -> Laid:
    width = max(map(len, documents)) + extra
    ids, mask = torch.zeros(len(documents), width, dtype=torch.long), torch.zeros(len(documents), width)
    places = []
    for row, document in enumerate(documents):
        start = 0 if side == "right" else width - len(document)
        ids[row, start : start + len(document)] = torch.tensor(document)
        mask[row, start : start + len(document)] = 1
        places.append((row, start))
    given = {"input_ids": ids, "attention_mask": mask.to(dtype)}
    if position_ids:
        given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0).long()
    return Laid(given, (len(documents), width), places)


def packed(documents: list[list[int]], *, how: str, extra: int) -> Laid:
    ids, positions, bounds, places = [], [], [0], []
    for document in documents:
        places.append((0, len(ids)))
        ids += document
        positions += range(len(document))
        bounds.append(len(ids))
    length = len(ids) + extra
    given = {"input_ids": torch.tensor([ids + [0] * extra])}
    if how in ("position_ids", "both"):
        given["position_ids"] = torch.tensor([positions + [0] * extra])
    if how in ("cu_seqlens", "both"):
        given["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32)
    if how == "position_ids" and extra:
        given["attention_mask"] = torch.tensor([[1] * (length - extra) + [0] * extra])
    return Laid(given, (1, length), places)


@st.composite
def layouts(draw: st.DrawFn, documents: list[list[int]]) -> Laid:
    extra = draw(st.integers(0, 3))
    if draw(st.booleans()):
        return packed(documents, how=draw(st.sampled_from(["position_ids", "cu_seqlens", "both"])), extra=extra)
    return padded(
        documents,
        side=draw(st.sampled_from(["left", "right"])),
        extra=extra,
        position_ids=draw(st.booleans()),
        dtype=draw(st.sampled_from([torch.bool, torch.int64, torch.float32])),
    )


def noise_by_document(laid: Laid, documents: list[list[int]], **options) -> list[torch.Tensor]:
    noise = neftune.perturb(torch.zeros(*laid.shape, WIDTH), 5.0, **laid.given, **options)
    parts = []
    for (row, start), document in zip(laid.places, documents, strict=True):
        parts.append(noise[row, start : start + len(document)].clone())
        noise[row, start : start + len(document)] = 0
    assert not noise.any(), "padding gets exactly nothing"
    return parts


@settings(deadline=None, max_examples=150)
@given(st.data(), documents_strategy, st.sampled_from(["uniform", "gaussian"]), st.integers(0, 5), st.integers(0, 5))
def test_same_document_same_noise_in_every_layout_order_and_batch(data, documents, distribution, draw, seed):
    options = {"draw": draw, "seed": seed, "distribution": distribution}
    order = data.draw(st.permutations(range(len(documents))))
    subset = order[: data.draw(st.integers(1, len(documents)))]
    some = [documents[i] for i in subset]
    laid = data.draw(layouts(documents))
    everything = noise_by_document(laid, documents, **options)
    again = noise_by_document(data.draw(layouts(some)), some, **options)
    for i, noise in zip(subset, again, strict=True):
        assert torch.equal(noise, everything[i])
        alone = noise_by_document(
            padded([documents[i]], side="right", extra=0, position_ids=False, dtype=torch.bool),
            [documents[i]],
            **options,
        )
        assert torch.equal(noise, alone[0])


@settings(deadline=None, max_examples=40)
@given(st.data(), documents_strategy, st.sampled_from([torch.float16, torch.bfloat16, torch.float64]))
def test_embedding_dtype_changes_the_final_rounding_alone(data, documents, dtype):
    laid = data.draw(layouts(documents))
    noise = neftune.perturb(torch.zeros(*laid.shape, WIDTH), 5.0, draw=0, **laid.given)
    embeddings = torch.randn(*laid.shape, WIDTH).to(dtype)
    got = neftune.perturb(embeddings, 5.0, draw=0, **laid.given)
    assert torch.equal(got, (embeddings + noise).to(dtype))


def test_short_row_beside_a_long_one_and_transformers_hook_beside_ours():
    """A 400- and a 20-token row, 200 draws: ours alpha/sqrt(3) for both, theirs 0.22 of that for the short one."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    alpha, width = 5.0, 64
    zeros, mask = torch.zeros(2, 400, width), torch.ones(2, 400)
    mask[1, 20:] = 0
    ids = torch.randint(1, 300, (2, 400)) * mask.long()
    theirs_module = torch.nn.Embedding(1, width)
    theirs_module.neftune_noise_alpha = alpha
    ours, theirs = torch.zeros(2), torch.zeros(2)
    torch.manual_seed(0)
    for draw in range(200):
        noise = neftune.perturb(zeros, alpha, attention_mask=mask, input_ids=ids, draw=draw)
        assert not noise[1, 20:].any()
        ours += noise.norm(dim=(1, 2)) / 200
        theirs += (neftune_post_forward_hook(theirs_module, None, zeros) * mask[..., None]).norm(dim=(1, 2)) / 200
    expected = alpha / 3**0.5
    assert (ours / expected).tolist() == pytest.approx([1.0, 1.0], rel=0.01)
    assert (theirs / expected).tolist() == pytest.approx([1.0, 0.2236], rel=0.01)


class TestPaddedAndPackedTrainTheSame:
    """With noise on, loss and every gradient of a padded batch are those of the same documents packed."""

    documents = ([5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 16, 17, 18, 19])

    def gradients(
        self, laid: Laid, *, names: dict[str, str], alpha: float = 5.0
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model = make("llama")
        batch = {names.get(name, name): value for name, value in laid.given.items()}
        labels = torch.full(laid.shape, -100)
        for (row, start), document in zip(laid.places, self.documents, strict=True):
            labels[row, start + 1 : start + len(document)] = torch.tensor(document[1:])
        with neftune.attach(model, alpha) as handle:
            handle.set_epoch(2)
            loss = model(**batch, labels=labels, use_cache=False).loss
            loss.backward()
            assert handle.realised().num_tokens == sum(map(len, self.documents))
        return loss.detach(), [parameter.grad for parameter in model.parameters()]

    @pytest.mark.parametrize("how", ["position_ids", "both"])
    @pytest.mark.parametrize("side", ["right", "left"])
    def test_llama(self, how, side):
        documents, names = list(self.documents), {"cu_seqlens": "cu_seq_lens_q"}
        one = self.gradients(padded(documents, side=side, extra=2, position_ids=True, dtype=torch.int64), names=names)
        other = self.gradients(packed(documents, how=how, extra=0), names=names)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        clean = self.gradients(packed(documents, how=how, extra=0), names=names, alpha=0.0)
        assert not torch.allclose(clean[0], other[0], rtol=1e-3), "the noise is part of what agrees"

    def test_any_split_of_an_optimiser_batch(self):
        documents = list(self.documents)

        def summed(groups: list[list[int]]) -> list[torch.Tensor]:
            model = without_dropout(make("llama"))
            with neftune.attach(model, 5.0) as handle:
                handle.set_epoch(1)
                for group in groups:
                    some = [documents[i] for i in group]
                    laid = padded(some, side="right", extra=0, position_ids=False, dtype=torch.int64)
                    batch = laid.given
                    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
                    count = sum(len(document) - 1 for document in some)
                    (model(**batch, labels=labels).loss * count).backward()
            return [parameter.grad for parameter in model.parameters()]

        whole = summed([[0, 1, 2]])
        for split in ([[0], [1], [2]], [[2, 0], [1]]):
            torch.testing.assert_close(summed(split), whole, rtol=1e-4, atol=1e-5)
