import pytest
import torch
from hypothesis import given, settings
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


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 70), st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_fast_path_equals_the_oracle_bit_for_bit(num_tokens, width, draw, seed):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(-(2**63), 2**63 - 1, (num_tokens,), generator=generator)
    positions = torch.randint(0, 2**32, (num_tokens,), generator=generator)
    blocks = -(-width // 4)
    fast = module._words_numpy(keys, positions, blocks, draw)
    assert torch.equal(fast, module._words_torch(keys, positions, blocks, draw))
    assert torch.equal(random_words(keys, positions, width=width, draw=draw), fast[:, :width])


@pytest.mark.parametrize(("num_tokens", "width"), [(1024, 8), (1025, 8), (3000, 66), (5, 70_000)])
def test_fast_path_has_no_seams_between_its_chunks(num_tokens, width):
    keys = torch.arange(num_tokens) * 0x1234567890AB
    positions = torch.arange(num_tokens)
    fast = module._words_numpy(keys, positions, -(-width // 4), 3)
    assert torch.equal(fast, module._words_torch(keys, positions, -(-width // 4), 3))


def test_words_of_a_channel_do_not_depend_on_the_width():
    keys, positions = torch.tensor([5, 6]), torch.tensor([0, 9])
    wide = random_words(keys, positions, width=64, draw=1)
    assert torch.equal(random_words(keys, positions, width=7, draw=1), wide[:, :7])


def test_every_input_changes_about_half_of_the_bits():
    def bits(key: int = 1, position: int = 2, draw: int = 3) -> torch.Tensor:
        words = random_words(torch.tensor([key]), torch.tensor([position]), width=4096, draw=draw)
        return (words[..., None] >> torch.arange(32)) & 1

    base = bits()
    for other in (bits(key=3), bits(key=1 + (1 << 40)), bits(position=3), bits(draw=2), bits(draw=3 + (1 << 33))):
        assert (base != other).double().mean().item() == pytest.approx(0.5, abs=0.01)
