import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neftune.noise import philox as module
from neftune.noise.philox import philox, random_words
from tests.reference import noise_oracle

ONES = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]
words32 = st.integers(0, ONES)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers_of_random123(counter, key, expected):
    as_tensors = [torch.tensor([value]) for value in (*counter, *key)]
    got = philox(tuple(as_tensors[:4]), tuple(as_tensors[4:]))
    assert tuple(int(word) for word in got) == expected
    assert noise_oracle.philox(counter, key) == expected


@given(st.tuples(words32, words32, words32, words32), st.tuples(words32, words32))
def test_equals_python_integers(counter, key):
    as_tensors = [torch.tensor([value]) for value in (*counter, *key)]
    got = philox(tuple(as_tensors[:4]), tuple(as_tensors[4:]))
    assert tuple(int(word) for word in got) == noise_oracle.philox(counter, key)


def fill_compiled():
    return pytest.importorskip("neftune.noise.compiled", reason="needs numba").fill


@pytest.mark.parametrize("fill", [module.fill_numpy, "compiled"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_fast_paths_equal_the_oracle_bit_for_bit(fill, num_tokens, num_blocks, draw, seed):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(-(2**63), 2**63 - 1, (num_tokens,), generator=generator)
    positions = torch.randint(0, 2**32, (num_tokens,), generator=generator)
    words = np.zeros((num_tokens, 4, num_blocks), np.uint32)
    (fill_compiled() if fill == "compiled" else fill)(
        keys.numpy().view(np.uint64), positions.numpy().view(np.uint64), draw, words
    )
    expected = module._words_torch(keys, positions, num_blocks, draw)
    assert torch.equal(torch.from_numpy(words.view(np.int32)).flatten(1), expected)
    assert torch.equal(random_words(keys, positions, num_blocks=num_blocks, draw=draw), expected)


def test_words_lie_block_beside_block():
    key, position, draw = 0x1234567890ABCDEF, 7, 3
    words = random_words(torch.tensor([key]), torch.tensor([position]), num_blocks=3, draw=draw)
    expected = noise_oracle.words(position, 24, bits=16, draw=draw, key=key)
    assert [word % 2**32 for word in words[0].tolist()] == expected


def test_without_numba_the_words_come_from_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "neftune.noise.compiled", None)
    module.cpu_fill.cache_clear()
    assert module.cpu_fill() is module.fill_numpy
    module.cpu_fill.cache_clear()


def test_every_input_changes_about_half_of_the_bits():
    def bits(key: int = 1, position: int = 2, draw: int = 3) -> torch.Tensor:
        words = random_words(torch.tensor([key]), torch.tensor([position]), num_blocks=1024, draw=draw)
        return (words[..., None] >> torch.arange(32)) & 1

    base = bits()
    for other in (bits(key=3), bits(key=1 + (1 << 40)), bits(position=3), bits(draw=2), bits(draw=3 + (1 << 33))):
        assert (base != other).double().mean().item() == pytest.approx(0.5, abs=0.01)
