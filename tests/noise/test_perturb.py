import pytest
import torch

import neftune
import neftune.noise.add as add_module
import neftune.noise.philox as philox_module
import neftune.noise.tokens as tokens_module
from neftune.noise.distributions import distributions
from tests.reference import noise_oracle


def test_equals_the_oracle_bit_for_bit():
    documents = [[5, 9, 2], [7], [1, 2, 3, 4, 5]]
    ids, mask = torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 5)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = torch.tensor(document)
        mask[row, : len(document)] = 1
    draw, seed = (1 << 40) + 3, 11
    zeros = torch.zeros(3, 5, 6)
    noise = neftune.perturb(zeros, 5.0, attention_mask=mask, input_ids=ids, draw=draw, seed=seed)
    for row, document in enumerate(documents):
        expected = noise_oracle.document_noise(document, 6, alpha=5.0, seed=seed, draw=draw)
        assert noise[row, : len(document)].tolist() == expected
        assert not noise[row, len(document) :].any()


def test_expected_norm_is_alpha_over_root_three_for_each_document_of_a_packed_row():
    lengths = (3, 40, 400)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    zeros = torch.zeros(1, sum(lengths), 64)
    norms = torch.zeros(3)
    for draw in range(60):
        noise = neftune.perturb(zeros, 7.0, position_ids=positions, draw=draw)
        norms += torch.stack([part.norm() ** 2 for part in noise[0].split(lengths)])
    assert (norms / 60).sqrt().tolist() == pytest.approx([7 / 3**0.5] * 3, rel=0.02)


def test_flattened_row_of_two_dimensions():
    embeddings, bounds = torch.randn(6, 8), torch.tensor([0, 2, 6])
    flat = neftune.perturb(embeddings, 5.0, cu_seqlens=bounds, input_ids=torch.arange(6), draw=0)
    row = neftune.perturb(embeddings[None], 5.0, cu_seqlens=bounds, input_ids=torch.arange(6)[None], draw=0)
    assert flat.shape == (6, 8)
    assert torch.equal(flat, row[0])


def test_without_a_draw_every_call_differs_and_the_seed_of_torch_repeats_it():
    embeddings = torch.zeros(1, 4, 8)
    torch.manual_seed(3)
    first, second = neftune.perturb(embeddings, 5.0), neftune.perturb(embeddings, 5.0)
    torch.manual_seed(3)
    assert torch.equal(first, neftune.perturb(embeddings, 5.0))
    assert not torch.equal(first, second)


def test_documents_without_ids_are_told_apart():
    noise = neftune.perturb(torch.zeros(2, 4, 8), 5.0, draw=0)
    assert not torch.equal(noise[0], noise[1])


def test_given_keys_stand_for_the_document():
    zeros = torch.zeros(2, 4, 8)
    rows = neftune.perturb(zeros, 5.0, document_keys=torch.tensor([7, 8]), draw=0)
    swapped = neftune.perturb(zeros, 5.0, document_keys=torch.tensor([8, 7]), draw=0)
    assert torch.equal(rows, swapped.flip(0))
    per_token = torch.tensor([7, 7, 7, 7, 8, 8, 8, 8])[None]
    packed = neftune.perturb(
        zeros.view(1, 8, 8), 5.0, document_keys=per_token, cu_seqlens=torch.tensor([0, 4, 8]), draw=0
    )
    assert torch.equal(packed.view(2, 4, 8), rows)


@pytest.mark.parametrize("change", [{"draw": 1}, {"seed": 1}, {"input_ids": torch.tensor([[1, 2, 3, 5]])}])
def test_another_draw_seed_or_document_is_independent(change):
    zeros = torch.zeros(1, 4, 2048)
    given = {"draw": 0, "seed": 0, "input_ids": torch.tensor([[1, 2, 3, 4]])}
    one, other = neftune.perturb(zeros, 5.0, **given), neftune.perturb(zeros, 5.0, **{**given, **change})
    correlation = torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]
    assert abs(correlation) < 5 / one.numel() ** 0.5
    assert (one == other).double().mean() < 0.001


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_noise_is_added_in_float32_and_rounded_once(dtype):
    embeddings = torch.randn(1, 300, 256).to(dtype)
    ids = torch.arange(300)[None]
    noise = neftune.perturb(torch.zeros(1, 300, 256), 5.0, input_ids=ids, draw=0)
    got = neftune.perturb(embeddings, 5.0, input_ids=ids, draw=0)
    assert got.dtype == dtype
    wide = embeddings if dtype == torch.float64 else embeddings.float()
    assert torch.equal(got, (wide + noise).to(dtype))


def test_length_times_width_beyond_sixteen_bits_in_half_precision():
    got = neftune.perturb(torch.zeros(1, 3000, 64, dtype=torch.float16), 300.0, draw=0)
    assert got.float().norm().item() == pytest.approx(300 / 3**0.5, rel=0.01)


def test_gradient_passes_unchanged():
    embeddings = torch.randn(2, 3, 4, requires_grad=True)
    weights = torch.randn(2, 3, 4)
    (neftune.perturb(embeddings, 5.0) * weights).sum().backward()
    assert torch.equal(embeddings.grad, weights)


@pytest.mark.parametrize("distribution", distributions)
def test_what_runs_on_other_devices_gives_the_same_bits(monkeypatch, distribution):
    """There, padding is computed and multiplied with 0, and the words come from plain torch arithmetic."""
    mask = (torch.arange(9) < torch.tensor([[9], [0], [4], [1]])).long()
    embeddings, ids = torch.randn(4, 9, 10), torch.randint(0, 99, (4, 9))
    given = {"attention_mask": mask, "input_ids": ids, "draw": 7, "distribution": distribution}
    here = neftune.perturb(embeddings, 5.0, **given)
    monkeypatch.setattr(add_module, "_kernels", lambda device: None)
    monkeypatch.setattr(add_module, "_parts", lambda noise: [slice(0, 20), slice(20, 36)])
    monkeypatch.setattr(
        tokens_module,
        "random_words",
        lambda keys, positions, num_blocks, draw: philox_module._words_torch(keys, positions, num_blocks, draw),
    )
    there = neftune.perturb(embeddings, 5.0, **given)
    assert torch.equal(here, there)
    assert torch.equal(there[mask == 0], embeddings[mask == 0])


def test_chosen_tokens_get_what_they_get_when_all_are_noised_and_the_others_nothing():
    embeddings, ids = torch.randn(2, 6, 8), torch.randint(0, 99, (2, 6))
    chosen = torch.tensor([[1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
    some = neftune.perturb(embeddings, 5.0, input_ids=ids, chosen=chosen, draw=0)
    everything = neftune.perturb(embeddings, 5.0, input_ids=ids, draw=0)
    assert torch.equal(some, torch.where(chosen[..., None] == 1, everything, embeddings))


def test_bernoulli_noise_comes_in_mirrored_pairs_of_draws():
    zeros, ids = torch.zeros(1, 4, 64), torch.tensor([[1, 2, 3, 4]])
    noise = [neftune.perturb(zeros, 5.0, input_ids=ids, draw=draw, distribution="bernoulli") for draw in range(4)]
    assert torch.equal(noise[0], -noise[1])
    assert torch.equal(noise[2], -noise[3])
    assert not torch.equal(noise[0].abs(), noise[0])
    assert 0.3 < (noise[0] == noise[2]).double().mean() < 0.7


def test_every_token_of_the_sphere_has_the_same_norm():
    noise = neftune.perturb(torch.zeros(1, 50, 40), 5.0, distribution="sphere", draw=0)
    assert noise[0].norm(dim=1).tolist() == pytest.approx([5 / 3**0.5 / 50**0.5] * 50, rel=1e-5)


def test_the_embeddings_given_are_left_alone():
    embeddings = torch.randn(2, 3, 4)
    before = embeddings.clone()
    neftune.perturb(embeddings, 5.0)
    assert torch.equal(embeddings, before)
