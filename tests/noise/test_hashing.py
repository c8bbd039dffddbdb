import torch
from hypothesis import given
from hypothesis import strategies as st

from neftune.noise.hashing import mix, mix_int, signed
from tests.reference import noise_oracle

any64 = st.integers(0, 2**64 - 1)


@given(any64)
def test_tensor_and_integer_agree(value):
    assert int(mix(torch.tensor([signed(value)]))) == signed(mix_int(value))
    assert mix_int(value) == noise_oracle.mix(value)


@given(any64)
def test_signed_keeps_the_bits(value):
    assert signed(value) % 2**64 == value
    assert -(2**63) <= signed(value) < 2**63


def test_splitmix64_known_answers():
    # The first outputs of SplitMix64 seeded with 0 are the mix of 1, 2, 3 times the golden ratio's increment.
    golden = 0x9E3779B97F4A7C15
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [mix_int(golden * i) for i in (1, 2, 3)] == expected
