"""Every registered distribution keeps what it declares."""

import pytest
import torch

from neftune.errors import ConfigError, UnknownNameError
from neftune.noise.distributions import UNIFORM_STD, distributions
from neftune.noise.perturb import perturb
from neftune.noise.philox import random_words
from neftune.noise.settings import NoiseSettings
from tests.reference import noise_oracle

NUM_TOKENS, WIDTH = 4000, 512


def words_for(name: str) -> torch.Tensor:
    tokens = torch.arange(NUM_TOKENS)
    return random_words(tokens * 977, tokens % 50, num_blocks=distributions[name].num_blocks(WIDTH), draw=1)


def sample(name: str, words: torch.Tensor, width: int = WIDTH) -> torch.Tensor:
    return distributions[name].sample(words, torch.ones(len(words)), width=width)


EXTREME_WORDS = torch.tensor([[-(2**31), 2**31 - 1, 0, -1], [1, 255, 256, -256]], dtype=torch.int32)


@pytest.mark.parametrize("name", distributions)
def test_mean_is_zero_and_std_is_the_declared_one(name):
    values = sample(name, words_for(name)).double()
    assert values.shape == (NUM_TOKENS, WIDTH)
    count = values.numel()
    assert values.mean().abs() < 5 * distributions[name].std / count**0.5
    assert values.square().mean().sqrt().item() == pytest.approx(distributions[name].std, rel=5 / count**0.5)


@pytest.mark.parametrize("name", distributions)
def test_numbers_are_exact_in_float32_and_the_same_every_time(name):
    entry = distributions[name]
    for words in (words_for(name), EXTREME_WORDS):
        numbers = entry.numbers(words)
        assert numbers.dtype == torch.float32
        assert (numbers * 2).frac().abs().max() == 0, "whole or half numbers: exact"
        assert numbers.abs().max() <= 2**24
        width = words.shape[1] * (32 // entry.bits)
        assert torch.equal(sample(name, words, width), sample(name, words.clone(), width))
        if not entry.on_sphere:
            exact = numbers.double().mul(2.0**-entry.fraction_bits).float()
            assert torch.equal(sample(name, words, width), exact)
    words = words_for(name)
    assert torch.equal(sample(name, words)[:7], sample(name, words[:7])), "numbers depend on their own token alone"


@pytest.mark.parametrize("name", distributions)
def test_rms_matching_brings_all_to_the_uniforms_rms(name):
    entry = distributions[name]
    matched = sample(name, words_for(name)).double() * entry.unit("rms")
    assert matched.square().mean().sqrt().item() == pytest.approx(UNIFORM_STD, rel=0.005)
    assert entry.unit("paper") == 1.0
    assert NoiseSettings(1.0, name).unit_norm == pytest.approx(UNIFORM_STD)
    assert NoiseSettings(1.0, name, "paper").unit_norm == entry.std


@pytest.mark.parametrize("match", ["rms", "paper"])
@pytest.mark.parametrize("name", distributions)
def test_a_documents_noise_is_the_oracles(name, match):
    """To the bit where numbers are exact; the gaussian's quantiles are off by less than 1e-5."""
    tokens, width = [5, 6, 5, 9, 2], 13
    for seed, draw in ((0, 0), (-3, 7), (2**40, 2**33 + 1)):
        settings = {"seed": seed, "draw": draw, "distribution": name, "match": match}
        noise = perturb(torch.zeros(1, 5, width), 5.0, input_ids=torch.tensor([tokens]), **settings)[0]
        expected = torch.tensor(noise_oracle.document_noise(tokens, width, alpha=5.0, **settings))
        if distributions[name].bits == 16:
            assert torch.equal(noise, expected)
        else:
            assert torch.allclose(noise, expected, rtol=1e-5, atol=1.5e-5 * 5 / (5 * width) ** 0.5)


def test_uniform_is_exactly_within_its_bounds_and_its_mean_exactly_zero():
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    every = sample("uniform", halves.view(torch.int32)[None], 2**16).double()
    assert every.min() == -1 + 2.0**-16
    assert every.max() == 1 - 2.0**-16
    assert every.sum() == 0
    assert every.unique().numel() == 2**16
    values = sample("uniform", words_for("uniform"))
    counts = torch.histc(values.double(), bins=64, min=-1, max=1)
    expected = values.numel() / 64
    assert ((counts - expected).square() / expected).sum() < 120, "chi-squared, 63 degrees, p about 1e-5"


def test_gaussian_is_the_normal_quantile_of_its_word():
    some = torch.cat((words_for("gaussian").flatten()[:3000], EXTREME_WORDS.flatten()))
    got = sample("gaussian", some[None], len(some))[0].tolist()
    assert got == pytest.approx([noise_oracle.gaussian(word % 2**32) for word in some.tolist()], abs=1e-5)
    signs = distributions["gaussian"].numbers(torch.tensor([5, 5 - 2**31], dtype=torch.int32))
    assert signs[0] == -signs[1], "exactly symmetric"


def test_bernoulli_takes_two_values_alone():
    assert sample("bernoulli", words_for("bernoulli")).unique().tolist() == [-1.0, 1.0]


def test_sphere_gives_every_token_the_same_norm_and_every_channel_the_same_rms():
    values = sample("sphere", words_for("sphere")).double()
    assert values.norm(dim=1).tolist() == pytest.approx([WIDTH**0.5] * NUM_TOKENS, rel=1e-6)
    assert (values.square().mean(dim=0).sqrt() - 1).abs().max() < 0.06


def test_wrong_names_are_refused_with_the_nearest_right_one():
    with pytest.raises(
        UnknownNameError, match="distribution must be one of bernoulli, gaussian, sphere, uniform; got 'uniformm'"
    ) as caught:
        NoiseSettings(1.0, "uniformm")
    assert "Did you mean 'uniform'?" in str(caught.value)
    with pytest.raises(ConfigError, match='match must be "rms" or "paper", got \'std\''):
        NoiseSettings(1.0, match="std")  # pyright: ignore[reportArgumentType]
