"""Every registered distribution keeps what it declares."""

import pytest
import torch

from neftune.errors import ConfigError, UnknownNameError
from neftune.noise.distributions import UNIFORM_STD, distributions
from neftune.noise.philox import random_words
from neftune.noise.settings import NoiseSettings
from tests.reference import noise_oracle

NUM_TOKENS, WIDTH = 4000, 512


@pytest.fixture(scope="module")
def words() -> torch.Tensor:
    return random_words(torch.arange(NUM_TOKENS) * 977, torch.arange(NUM_TOKENS) % 50, width=WIDTH, draw=1)


EXTREME_WORDS = torch.tensor([-(2**31), 2**31 - 1, 0, -1, 1, 255, 256, -256], dtype=torch.int32)


@pytest.mark.parametrize("name", distributions)
def test_mean_is_zero_and_std_is_the_declared_one(name, words):
    values = distributions[name].sample(words).double()
    count = values.numel()
    assert values.mean().abs() < 5 * distributions[name].std / count**0.5
    assert values.std().item() == pytest.approx(distributions[name].std, rel=5 / count**0.5)


@pytest.mark.parametrize("name", distributions)
def test_numbers_are_exact_in_float32_and_the_same_every_time(name, words):
    entry = distributions[name]
    for some in (words, EXTREME_WORDS):
        integers = entry.integers(some)
        assert not integers.is_floating_point()
        assert integers.abs().max() <= 2**24
        assert torch.equal(entry.sample(some), integers.double().mul(2.0**-entry.fraction_bits).float())
        assert torch.equal(entry.sample(some), entry.sample(some.clone()))
        assert entry.sample(some).dtype == torch.float32
    assert torch.equal(entry.sample(words)[:7], entry.sample(words[:7])), "a number depends on its own word alone"


@pytest.mark.parametrize("name", distributions)
def test_rms_matching_brings_all_to_the_uniforms_rms(name, words):
    entry = distributions[name]
    matched = entry.sample(words).double() * entry.unit("rms")
    assert matched.square().mean().sqrt().item() == pytest.approx(UNIFORM_STD, rel=0.005)
    assert entry.unit("paper") == 1.0
    assert NoiseSettings(1.0, name).unit_norm == pytest.approx(UNIFORM_STD)
    assert NoiseSettings(1.0, name, "paper").unit_norm == entry.std


def test_uniform_is_exactly_within_its_bounds(words):
    extreme = distributions["uniform"].sample(EXTREME_WORDS)
    assert extreme.min() == -1.0
    assert extreme.max() == 1.0 - 2.0**-23
    values = distributions["uniform"].sample(words)
    assert values.min() >= -1
    assert values.max() < 1
    counts = torch.histc(values.double(), bins=64, min=-1, max=1)
    expected = values.numel() / 64
    assert ((counts - expected).square() / expected).sum() < 120, "chi-squared, 63 degrees, p about 1e-5"


def test_gaussian_is_the_normal_quantile_of_its_word(words):
    some = torch.cat((words.flatten()[:3000], EXTREME_WORDS))
    got = distributions["gaussian"].sample(some).tolist()
    assert got == pytest.approx([noise_oracle.gaussian(word % 2**32) for word in some.tolist()], abs=1e-5)
    signs = distributions["gaussian"].integers(torch.tensor([5, 5 - 2**31], dtype=torch.int32))
    assert signs[0] == -signs[1], "exactly symmetric"


def test_wrong_names_are_refused_with_the_nearest_right_one():
    with pytest.raises(
        UnknownNameError, match="distribution must be one of gaussian, uniform; got 'uniformm'"
    ) as caught:
        NoiseSettings(1.0, "uniformm")
    assert "Did you mean 'uniform'?" in str(caught.value)
    with pytest.raises(ConfigError, match='match must be "rms" or "paper", got \'std\''):
        NoiseSettings(1.0, match="std")  # pyright: ignore[reportArgumentType]
