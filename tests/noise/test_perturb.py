import pytest
import torch

import neftune
import neftune.noise.perturb as perturb_module
import neftune.noise.philox as philox_module
from neftune.errors import ConfigError, NoiseError
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


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_what_runs_on_other_devices_gives_the_same_bits(monkeypatch, distribution):
    """There, padding is computed and multiplied with 0, and the words come from plain torch arithmetic."""
    mask = (torch.arange(9) < torch.tensor([[9], [0], [4], [1]])).long()
    embeddings, ids = torch.randn(4, 9, 10), torch.randint(0, 99, (4, 9))
    given = {"attention_mask": mask, "input_ids": ids, "draw": 7, "distribution": distribution}
    here = neftune.perturb(embeddings, 5.0, **given)
    monkeypatch.setattr(perturb_module, "_without_padding", lambda real: None)
    monkeypatch.setattr(philox_module, "_words_numpy", philox_module._words_torch)
    there = neftune.perturb(embeddings, 5.0, **given)
    assert torch.equal(here, there)
    assert torch.equal(there[mask == 0], embeddings[mask == 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, torch sees none")
def test_a_gpu_gives_the_same_bits():
    mask = (torch.arange(300) < torch.tensor([[300], [40]])).long()
    embeddings, ids = torch.randn(2, 300, 130), torch.randint(0, 99, (2, 300))
    for distribution in ("uniform", "gaussian"):
        given = {"draw": 7, "distribution": distribution}
        here = neftune.perturb(embeddings, 5.0, attention_mask=mask, input_ids=ids, **given)
        there = neftune.perturb(embeddings.cuda(), 5.0, attention_mask=mask.cuda(), input_ids=ids.cuda(), **given)
        assert torch.equal(here, there.cpu())


@pytest.mark.parametrize("alpha", [-5, -0.1, float("nan"), float("inf"), "5", True, None])
def test_bad_alphas_are_refused(alpha):
    with pytest.raises(ConfigError) as caught:
        neftune.perturb(torch.zeros(1, 2, 4), alpha)
    assert str(caught.value) == (
        f"noise alpha must be a finite number >= 0, got {alpha!r}. Use alpha=0 for the no-noise baseline; "
        "the paper uses 5, 10 and 15."
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"embeddings": torch.zeros(2, 3, dtype=torch.long)},
            "got torch.int64 of shape [2, 3]. Perturb the embeddings",
        ),
        ({"embeddings": torch.zeros(4)}, "embeddings must be floating point of shape"),
        ({"input_ids": torch.zeros(2, 9, dtype=torch.long)}, "input_ids must have the shape of the tokens, [2, 3]"),
        ({"document_keys": torch.zeros(5, dtype=torch.long)}, "document_keys must be integers, one per row [2]"),
        ({"document_keys": torch.zeros(2)}, "In packed rows give one per token"),
    ],
)
def test_wrong_tensors_are_refused(arguments, words):
    with pytest.raises(NoiseError) as caught:
        neftune.perturb(**{"embeddings": torch.zeros(2, 3, 4), "alpha": 5.0, **arguments})
    assert words in str(caught.value)


def test_seed_must_be_a_whole_number():
    with pytest.raises(ConfigError, match=r"noise seed must be an integer, got 1\.5"):
        neftune.perturb(torch.zeros(1, 2, 4), 5.0, seed=1.5)  # pyright: ignore[reportArgumentType]
