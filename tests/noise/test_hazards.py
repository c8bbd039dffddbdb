"""What a sceptic tried on the noise: each once gave silently wrong noise or gradients, or an error without a remedy."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import neftune
from neftune.errors import ConfigError, NoiseError
from tests.tiny_families import make, make_batch, without_dropout


class Plain(nn.Module):
    """An inner module that embeds, and a layer."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 8)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.table(ids))

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()
        self.layer = nn.Linear(8, 8)
        self.recomputes = False

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.table

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        if self.recomputes:
            return self.layer(checkpoint(self.inner, ids, use_reentrant=False))
        return self.layer(self.inner(ids))


IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_values_kept_for_a_backward_pass_before_the_noise_came_are_refused_by_autograd(monkeypatch, is_compiled):
    if not is_compiled:
        monkeypatch.setattr("neftune.noise.add._kernels", lambda device: None)
    model = Plain()
    model.inner.table.register_forward_hook(lambda _module, _args, output: torch.tanh(output))
    with neftune.attach(model), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(IDS).sum().backward()


def test_after_an_interrupt_an_inner_call_does_not_inherit_the_dead_one():
    model = Plain()

    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    with neftune.attach(model) as handle:
        hook = model.inner.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(IDS, attention_mask=torch.tensor([[1, 1, 0, 0, 0, 0]] * 2))
        hook.remove()
        first, second = model.inner(IDS), model.inner(IDS)
        assert not torch.equal(first, second)
        assert handle.realised().num_tokens == 2 * IDS.numel()


def test_documents_of_one_row_under_one_key_have_noise_of_their_own():
    zeros, bounds = torch.zeros(1, 8, 8), torch.tensor([0, 4, 8])
    keys = torch.tensor([3])
    packed = neftune.perturb(zeros, 5.0, cu_seqlens=bounds, document_keys=keys, draw=0)
    assert not torch.equal(packed[0, :4], packed[0, 4:])
    alone = neftune.perturb(zeros[:, :4], 5.0, document_keys=keys, draw=0)
    assert torch.equal(packed[:, :4], alone), "the first is the row's own"


def test_a_recomputation_that_begins_inside_the_model_is_refused():
    model = Plain()
    model.recomputes = True
    with neftune.attach(model) as handle:
        handle.set_epoch(0)
        loss = model(IDS).sum()
        with pytest.raises(NoiseError, match=r"begins at Inner, .* Checkpoint the layers"):
            loss.backward()


@pytest.mark.parametrize("epoch", [-1, 1.7, 2**63, True, "1"])
def test_an_epoch_is_a_whole_number(epoch):
    handle = neftune.attach(make("llama"))
    with pytest.raises(ConfigError, match=r"an epoch must be a whole number from 0 to below 2\*\*63, got"):
        handle.set_epoch(epoch)


def test_an_empty_batch_is_noised_by_nothing():
    model = Plain()
    with neftune.attach(model) as handle:
        assert model(IDS[:0]).shape == (0, 6, 8)
        assert model(IDS[:, :0]).shape == (2, 0, 8)
        model(IDS)
        assert handle.realised().num_documents == 2


@pytest.mark.parametrize("name", ["position_ids", "cu_seq_lens_q", "document_keys"])
def test_a_list_instead_of_a_tensor_is_named(name):
    class Loose(Plain):
        def forward(self, ids: torch.Tensor, **given: object) -> torch.Tensor:
            return super().forward(ids)

    model = Loose()
    with (
        neftune.attach(model),
        pytest.raises(NoiseError, match=f"{name} must be a tensor, got list"),
    ):
        model(IDS, **{name: [0, 3, 6]})


def test_numbers_of_numpy_become_pythons():
    alpha = neftune.NoiseCallback(alpha=np.float32(5)).settings.alpha
    assert json.dumps(alpha) == "5.0"


def test_a_table_of_another_class_that_scales_its_rows_unseen_is_refused():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(50, 8))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return nn.functional.embedding(ids, self.weight) * 4

    model = Plain()
    model.inner.table = Scaled()
    with pytest.raises(NoiseError, match="a known factor, got Scaled, which gives other numbers than 1 times"):
        neftune.attach(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_part_of_a_model_may_be_compiled():
    model, batch = without_dropout(make("llama")), make_batch()
    with neftune.attach(model, 50.0) as handle:
        handle.set_epoch(0)
        expected = model(**batch).loss.item()
        model.model.compile(backend="eager")
        assert model(**batch).loss.item() == expected
        handle.set_epoch(1)
        assert model(**batch).loss.item() != expected
    torch.compiler.reset()
