"""The generator under the null hypothesis of independent, equally likely bits.

Every test gives p-values; one below 1e-6 fails. There are about 150, so a perfect generator on new inputs would fail
once in 6,000 runs; the inputs are fixed, so these tests either always pass or never. Known answers: test_philox.py.
"""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import neftune
from neftune.noise import philox
from neftune.noise.distributions import UNIFORM_STD, distributions
from neftune.noise.philox import random_words
from neftune.noise.stacks import Stack

LEAST_P = 1e-6
NUM_BLOCKS = 32
TOKENS_PER_DOCUMENT = 200
NUM_DOCUMENTS = 200


@pytest.fixture(scope="module")
def words() -> Tensor:
    """(documents, tokens, words): 5,120,000 words, 10,240,000 of the uniform's numbers; keys that follow each other."""
    keys = torch.arange(NUM_DOCUMENTS).repeat_interleave(TOKENS_PER_DOCUMENT)
    positions = torch.arange(TOKENS_PER_DOCUMENT).repeat(NUM_DOCUMENTS)
    drawn = random_words(keys, positions, num_blocks=NUM_BLOCKS, draw=0)
    return drawn.view(NUM_DOCUMENTS, TOKENS_PER_DOCUMENT, 4 * NUM_BLOCKS)


def uniform(words: Tensor) -> Tensor:
    """The uniform's numbers, (..., 2 * words)."""
    flat = words.reshape(-1, words.shape[-1])
    entry = distributions["uniform"]
    values = entry.sample(flat, torch.ones(len(flat)), width=2 * words.shape[-1])
    return values.view(*words.shape[:-1], -1)


def chi_squared(counts: Tensor) -> float:
    """The smaller tail's p, doubled: too even is as wrong as too uneven."""
    statistic, degrees = stats.chisquare(counts.numpy()).statistic, counts.numel() - 1
    return 2 * min(stats.chi2.sf(statistic, degrees), stats.chi2.cdf(statistic, degrees))


def bit_balance(words: Tensor) -> float:
    """Whether each of the 32 bits is 1 half of the time."""
    flat = words.flatten()
    ones = torch.stack([((flat >> bit) & 1).sum() for bit in range(32)]).double()
    z = (ones - flat.numel() / 2) / math.sqrt(flat.numel() / 4)
    statistic = z.square().sum().item()
    return 2 * min(stats.chi2.sf(statistic, 32), stats.chi2.cdf(statistic, 32))


def correlation(x: Tensor, y: Tensor) -> float:
    """Whether numbers of known mean 0 and std go together."""
    z = (x * y).mean(dtype=torch.float64).item() / UNIFORM_STD**2 * math.sqrt(x.numel())
    return 2 * stats.norm.sf(abs(z))


def correlation_of_sizes(x: Tensor, y: Tensor) -> float:
    """Whether their squares do: mean 1/3, variance 4/45."""
    covariance = ((x.square() - 1 / 3) * (y.square() - 1 / 3)).mean(dtype=torch.float64).item()
    return 2 * stats.norm.sf(abs(covariance / (4 / 45)) * math.sqrt(x.numel()))


def independence(one: Tensor, other: Tensor) -> dict[str, float]:
    """Two streams of words, place by place."""
    x, y = uniform(one), uniform(other)
    return {
        "bits": bit_balance(one ^ other),
        "numbers": correlation(x, y),
        "sizes": correlation_of_sizes(x, y),
    }


def assert_likely(p_values: dict[str, float]) -> None:
    unlikely = {name: p for name, p in p_values.items() if p < LEAST_P}
    assert not unlikely, unlikely


def test_every_bit_byte_and_number_is_equally_frequent(words):
    p_values = {"bits": bit_balance(words)}
    for byte in range(4):
        values = (words.flatten() >> (8 * byte)) & 0xFF
        p_values[f"byte {byte}"] = chi_squared(torch.bincount(values, minlength=256))
    for half in range(2):
        values = (words.flatten() >> (16 * half)) & 0xFFFF
        p_values[f"half {half}"] = chi_squared(torch.bincount(values, minlength=1 << 16))
    cells = ((uniform(words).flatten().double() + 1) * 2**15).long()
    assert cells.numel() >= 10**7
    p_values["numbers"] = chi_squared(torch.bincount(cells, minlength=1 << 16))
    assert_likely(p_values)


def test_every_channel_and_position_is_equally_frequent(words):
    values = uniform(words).flatten(0, 1).double()
    by_channel = values.mean(dim=0) / UNIFORM_STD * math.sqrt(values.shape[0])
    by_token = values.mean(dim=1) / UNIFORM_STD * math.sqrt(values.shape[1])
    for z in (by_channel, by_token):
        statistic = z.square().sum().item()
        assert LEAST_P < stats.chi2.sf(statistic, z.numel()) < 1 - LEAST_P
        assert stats.norm.sf(z.abs().max().item()) * 2 * z.numel() > LEAST_P, "the largest of all, by Bonferroni"


@pytest.mark.parametrize("axis", ["channel", "position", "document"])
@pytest.mark.parametrize("lag", [1, 2, 4, 8, NUM_BLOCKS, 2 * NUM_BLOCKS, 4 * NUM_BLOCKS])
def test_neighbours_at_a_distance_are_not_related(words, axis, lag):
    """Along the channels a plane is 2 * NUM_BLOCKS wide: at its multiples stand words of the same block."""
    values = uniform(words)
    dim = {"channel": 2, "position": 1, "document": 0}[axis]
    early, late = (values.narrow(dim, start, values.shape[dim] - lag) for start in (0, lag))
    assert_likely({"numbers": correlation(early, late), "sizes": correlation_of_sizes(early, late)})


def test_runs_through_memory_are_not_related(words):
    bits = ((words.flatten()[: 1 << 19, None] >> torch.arange(32)) & 1).flatten()
    changes = (bits[1:] != bits[:-1]).sum().item()
    z = (changes - (bits.numel() - 1) / 2) / math.sqrt((bits.numel() - 1) / 4)
    assert 2 * stats.norm.sf(abs(z)) > LEAST_P


def stream(*, key: int = 12345, position: int = 0, draw: int = 7) -> Tensor:
    """1,048,576 words of one long document."""
    positions = position + torch.arange(2048)
    return random_words(torch.full((2048,), key), positions, num_blocks=128, draw=draw)


@pytest.mark.parametrize(
    "change",
    [
        *({"key": key} for key in (12344, -12345, 12345 + (1 << 32), 12345 - (1 << 63))),
        *({"position": position} for position in (2048, 1 << 20, 1 << 31)),
        *({"draw": draw} for draw in (6, 8, 7 + (1 << 32), 7 + (1 << 63))),
    ],
    ids=str,
)
def test_keys_positions_and_draws_are_independent(change):
    assert_likely(independence(stream(), stream(**change)))


def noise_words(*, last: int = 5, seed: int = 0, draw: int = 7) -> Tensor:
    """The noise of one document of 2,000 tokens, through the public function, as the words it came from."""
    length, width = 2000, 512
    ids = torch.arange(length)[None] % 97
    ids[0, -1] = last
    noise = neftune.perturb(torch.zeros(1, length, width), 1.0, input_ids=ids, seed=seed, draw=draw)[0]
    scale = noise.abs().max() / (1 - 2.0**-16)
    halves = (noise.double() / scale * 2**15 - 0.5).round()
    assert halves.min() == -(2**15)
    assert halves.max() == 2**15 - 1
    return halves.to(torch.int16).contiguous().view(torch.int32)


def test_seeds_stacks_ranks_and_epochs_are_independent():
    base, table = noise_words(), torch.nn.Embedding(2, 2)
    decoder = Stack(table, table, "decoder", 1.0, stream=1)
    others = {
        "next seed": noise_words(seed=1),
        "opposite seed": noise_words(seed=-1),
        "another stack, same tokens": noise_words(seed=decoder.seed(0)),
        "another rank, whose document ends in another token": noise_words(last=6),
        "next epoch": noise_words(draw=8),
    }
    for name, other in others.items():
        assert_likely({f"{name}: {kind}": p for kind, p in independence(base, other).items()})
    assert torch.equal(base, noise_words()), "and the same again"


def test_numbers_lie_in_their_bounds_and_reach_them(words):
    values = uniform(words)
    assert values.min() == -1 + 2.0**-16
    assert values.max() == 1 - 2.0**-16, "never 1"
    for alpha in (5.0, 7.3, 1e-3):
        noise = neftune.perturb(torch.zeros(1, 50, 4096), alpha, draw=1)
        bound = torch.tensor(alpha / math.sqrt(50 * 4096))
        assert 0.999 * bound < noise.abs().max() < bound


@pytest.mark.parametrize(("num_rounds", "is_found"), [(2, True), (3, True), (10, False)])
def test_too_few_rounds_would_be_found(monkeypatch, num_rounds, is_found):
    monkeypatch.setattr(philox, "ROUNDS", num_rounds)
    keys, positions = torch.zeros(4096, dtype=torch.int64), torch.arange(4096)
    one, other = (philox._words_torch(keys, positions, NUM_BLOCKS, draw) for draw in (0, 1))
    values = uniform(one)
    p_values = [bit_balance(one), *independence(one, other).values()]
    p_values += [correlation(values[:-lag], values[lag:]) for lag in (1, 2, 4, 8)]
    p_values += [correlation(values[:, :-lag], values[:, lag:]) for lag in (1, 2, 4, 8)]
    assert (min(p_values) < LEAST_P) == is_found, p_values
