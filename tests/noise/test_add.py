import pytest
import torch

from neftune.noise import add as add_module
from neftune.noise.add import add_
from neftune.noise.distributions import distributions
from neftune.noise.documents import read_layout
from neftune.noise.perturb import noise_in_place
from neftune.noise.settings import NoiseSettings
from neftune.noise.tokens import TokenNoise, token_keys, token_noise

CPU = torch.device("cpu")


def make_noise(lengths: tuple[int, ...], width: int, distribution: str = "uniform") -> TokenNoise:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    layout = read_layout((len(lengths), max(lengths)), CPU, attention_mask=mask)
    keys = token_keys(layout, input_ids=None, keys=None)
    return token_noise(layout, keys, NoiseSettings(5.0, distribution), alpha=5.0, width=width, draw=3)


@pytest.mark.parametrize(("lengths", "width"), [((7, 7), 8), ((9, 0, 4), 10), ((900, 300), 301), ((3, 1), 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("distribution", distributions)
@pytest.mark.parametrize("is_compiled", [True, False])
def test_there_are_no_seams_and_padding_is_not_touched(monkeypatch, lengths, width, dtype, distribution, is_compiled):
    if not is_compiled:
        monkeypatch.setattr(add_module, "_kernels", lambda device: None)
    noise = make_noise(lengths, width, distribution)
    embeddings = torch.randn(noise.scale.numel(), width).to(dtype)
    got, everything = embeddings.clone(), noise.values(slice(None))
    squares = add_(got, noise)
    wide = embeddings if dtype == torch.float64 else embeddings.float()
    assert torch.equal(got, torch.where(noise.noised[:, None], (wide + everything).to(dtype), embeddings))
    assert torch.allclose(squares.noise, everything.square().sum(1), rtol=1e-4)
    assert torch.allclose(squares.signal, (wide.float().square().sum(1) * noise.noised), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(dtype):
    noise, results = make_noise((5, 3), 64), []
    embeddings = torch.randn(10, 64).to(dtype)
    for enabled in (False, True):
        got = embeddings.clone()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append((got, *add_(got, noise)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_memory_of_the_embeddings_is_used_where_nobody_else_holds_it():
    noise, table = make_noise((5, 3), 8), torch.nn.Embedding(9, 8)
    fresh = table(torch.zeros(2, 5, dtype=torch.long))
    assert noise_in_place(fresh, noise)[0] is fresh
    leaf = torch.randn(2, 5, 8, requires_grad=True)
    before = leaf.detach().clone()
    noised, _ = noise_in_place(leaf, noise)
    noised.sum().backward()
    assert torch.equal(leaf.detach(), before), "a leaf that wants gradients is copied"
    assert torch.equal(leaf.grad, torch.ones_like(leaf))
    part = torch.randn(2, 5, 16)[..., :8]
    assert noise_in_place(part, noise)[0] is not part, "a view is copied"
