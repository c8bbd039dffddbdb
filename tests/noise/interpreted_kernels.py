"""The kernels in Triton's interpreter, equal to torch bit for bit. Run by test_kernels.py, in a process of its own.

Triton decides when it is imported whether it interprets, so TRITON_INTERPRET must be set before.
"""

import pytest
import torch
from torch import Tensor
from triton import knobs
from triton.runtime import interpreter

from neftune.noise import add, kernels
from neftune.noise.distributions import distributions
from neftune.noise.tokens import TokenNoise

assert knobs.runtime.interpret, "run by test_kernels.py"
# 32-bit products wrap around, as they must; numpy warns where the interpreter multiplies single numbers.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

_convert = interpreter._convert_float


def convert_like_a_device(values, source, target, rounding):
    """The interpreter cuts off the bits that bfloat16 lacks; a device rounds to the nearest, to even at ties."""
    if str(target) != "bf16" or str(source) != "fp32":
        return _convert(values, source, target, rounding)
    return torch.from_numpy(values.copy()).bfloat16().view(torch.uint16).numpy()


@pytest.fixture(autouse=True)
def _devices_rounding_and_plain_torch(monkeypatch):
    monkeypatch.setattr(interpreter, "_convert_float", convert_like_a_device)
    monkeypatch.setattr(add, "_kernels", lambda device: None)


def make_noise(num_tokens: int, width: int, distribution: str = "uniform", draw: int = 3) -> TokenNoise:
    """Any keys, positions and scales; every third token gets no noise."""
    generator = torch.Generator().manual_seed(num_tokens * width)
    noised = torch.arange(num_tokens) % 3 != 1
    return TokenNoise(
        keys=torch.randint(-(2**63), 2**63 - 1, (num_tokens,), generator=generator),
        positions=torch.randint(0, 2**32, (num_tokens,), generator=generator),
        scale=torch.rand(num_tokens, generator=generator) * noised,
        noised=noised,
        width=width,
        draw=draw,
        entry=distributions[distribution],
    )


def assert_equal_to_torch(embeddings: Tensor, noise: TokenNoise) -> None:
    assert kernels.supports(embeddings, noise)
    got, expected = embeddings.clone(), embeddings.clone()
    squares, expected_squares = kernels.add_noise_(got, noise), add.add_(expected, noise)
    assert torch.equal(got, expected)
    assert torch.equal(got[~noise.noised], embeddings[~noise.noised])
    for one, other in zip(squares, expected_squares, strict=True):
        assert (one.dtype, one.shape) == (torch.float32, other.shape)
        assert torch.allclose(one, other, rtol=1e-5)
        assert not one[~noise.noised].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distribution", distributions)
@pytest.mark.parametrize("width", [1, 3, 288])
def test_equals_torch(dtype, distribution, width):
    assert_equal_to_torch(torch.randn(4, width).to(dtype), make_noise(4, width, distribution))


@pytest.mark.parametrize(
    ("distribution", "width"), [("uniform", 1025), ("uniform", 4096), ("bernoulli", 4104), ("sphere", 2052)]
)
def test_wide_tokens_take_several_warps_or_programs(distribution, width):
    assert_equal_to_torch(torch.randn(2, width).bfloat16(), make_noise(2, width, distribution))


@pytest.mark.parametrize("num_tokens", [1, 2, 33])
def test_numbers_of_tokens_that_do_not_fill_a_program(num_tokens):
    assert_equal_to_torch(torch.randn(num_tokens, 20), make_noise(num_tokens, 20))


@pytest.mark.parametrize("draw", [0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
def test_every_draw(draw):
    assert_equal_to_torch(torch.randn(5, 24), make_noise(5, 24, draw=draw))


def test_memory_may_start_anywhere_and_the_numbers_of_tokens_may_share_theirs():
    noise = make_noise(6, 10)
    assert_equal_to_torch(torch.randn(8, 10)[2:], noise)
    everywhere = torch.ones((), dtype=torch.bool).expand(6)
    shared = TokenNoise(noise.keys[:1].expand(6), noise.positions, noise.scale, everywhere, 10, 3, noise.entry)
    assert_equal_to_torch(torch.randn(6, 10), shared)


def test_no_noise_at_all_and_values_at_the_edges():
    noise = make_noise(4, 6)
    edges = torch.tensor([0.0, -0.0, torch.inf, torch.finfo(torch.float32).tiny, 3.4e38, -1e-42]).repeat(4, 1)
    assert_equal_to_torch(edges, noise)
    none = TokenNoise(noise.keys, noise.positions, noise.scale * 0, noise.noised & False, 6, 3, noise.entry)
    assert_equal_to_torch(edges, none)


def test_what_is_not_supported_goes_through_torch():
    noise = make_noise(4, 6)
    assert not kernels.supports(torch.randn(4, 6).double(), noise)
    assert not kernels.supports(torch.randn(4, 12)[:, :6], noise)
    assert not kernels.supports(torch.randn(0, 6), noise)
