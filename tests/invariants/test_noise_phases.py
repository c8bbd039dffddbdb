"""METHOD properties 4 to 6 and the baseline: when there is noise, and when there is exactly none."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import neftune
from tests.tiny_families import TYPICAL, make, make_batch, without_dropout


def steps(model: nn.Module, *, num: int = 3) -> list[torch.Tensor]:
    """Losses of a few updates, then all weights, from one seed; dropout is as the family has it."""
    torch.manual_seed(5)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(num):
        loss = model(**make_batch()).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.detach())
    return losses + [parameter.detach().clone() for parameter in model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("family", TYPICAL)
def test_alpha_zero_equals_no_attachment_bit_for_bit(family):
    bare, attached = make(family), make(family)
    expected = steps(bare)
    with neftune.attach(attached, 0.0) as handle:
        assert same(steps(attached), expected)
        realised = handle.realised()
    assert (realised.alpha_mean, realised.noise_to_embedding) == (0.0, 0.0)
    assert realised.num_documents > 0, "the baseline runs the same code"
    noisy = make(family)
    with neftune.attach(noisy, 5.0):
        assert not same(steps(noisy), expected)


@pytest.mark.parametrize("family", TYPICAL)
def test_no_noise_in_eval_without_gradients_or_paused(family):
    model, batch = without_dropout(make(family)), make_batch()
    clean = model(**batch).loss.detach()
    with neftune.attach(model, 50.0) as handle:
        assert not torch.equal(model(**batch).loss, clean)
        with torch.no_grad():
            assert torch.equal(model(**batch).loss, clean), "train mode without gradients"
        with handle.paused():
            assert torch.equal(model(**batch).loss, clean)
            with handle.paused():
                assert torch.equal(model(**batch).loss, clean)
            assert torch.equal(model(**batch).loss, clean), "an inner pause does not end the outer one"
        model.eval()
        assert torch.equal(model(**batch).loss, clean)
        model.train()
        assert not torch.equal(model(**batch).loss, clean)
    assert torch.equal(model(**batch).loss, clean)


def test_generation_in_train_mode_is_clean():
    model = make("llama")
    ids = torch.tensor([[3, 4, 5]])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 96}
    expected = model.generate(ids, **options)
    with neftune.attach(model, 200.0) as handle:
        assert torch.equal(model.generate(ids, **options), expected)
        assert handle.meter.totals().num_documents == 0


def test_new_noise_for_every_forward_and_the_epoch_decides_where_it_is_told():
    model, batch = without_dropout(make("llama")), make_batch()
    with neftune.attach(model, 5.0) as handle:
        first, second = model(**batch).loss, model(**batch).loss
        assert not torch.equal(first, second)
        by_epoch = {}
        for epoch in (0, 1, 0):
            handle.set_epoch(epoch)
            loss = model(**batch).loss.detach()
            assert torch.equal(by_epoch.setdefault(epoch, loss), loss)
        assert not torch.equal(by_epoch[0], by_epoch[1])


def test_epochs_leave_torchs_generator_alone_and_draws_follow_it():
    model, batch = without_dropout(make("llama")), make_batch()
    with neftune.attach(model, 5.0) as handle:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = model(**batch).loss
        assert not torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(1)
        assert torch.equal(model(**batch).loss, one)
        handle.set_epoch(3)
        before = torch.get_rng_state()
        model(**batch)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("told", [False, True], ids=["draws", "epochs"])
@pytest.mark.parametrize("reentrant", [None, True, False], ids=["per-layer", "whole-reentrant", "whole"])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_recomputation_gives_the_gradients_of_no_recomputation(family, reentrant, told):
    def gradients(*, recompute: bool) -> list[torch.Tensor]:
        model, batch = make(family), make_batch()
        torch.manual_seed(3)
        if recompute and reentrant is None:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        with neftune.attach(model, 20.0) as handle:
            if told:
                handle.set_epoch(1)
            anchor = torch.ones((), requires_grad=True)
            whole = recompute and reentrant is not None

            def forward(one: torch.Tensor) -> torch.Tensor:
                return model(**batch).loss * one

            loss = checkpoint(forward, anchor, use_reentrant=reentrant) if whole else forward(anchor)
            loss.backward()
            realised = handle.realised()
        assert realised.num_forwards == 1, "a recomputation is not another exposure"
        assert realised.num_tokens == 13 * (1 + model.config.is_encoder_decoder)
        return [loss.detach(), *(parameter.grad for parameter in model.parameters())]

    expected = gradients(recompute=False)
    torch.testing.assert_close(gradients(recompute=True), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma", "bart"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_reach_the_table_through_the_clean_path(family, dtype):
    model, batch = without_dropout(make(family)).to(dtype), make_batch()
    table = model.get_decoder().embed_tokens if family == "bart" else model.get_input_embeddings()
    seen = {}
    table.register_forward_hook(lambda _module, _args, output: seen.update(clean=output.clone()))
    with neftune.attach(model, 5.0):
        noisy = {}
        table.register_forward_hook(lambda _module, _args, output: noisy.update(noisy=output))
        model(**batch)
    weights = torch.randn_like(seen["clean"])
    (expected,) = torch.autograd.grad((seen["clean"] * weights).sum(), table.weight, retain_graph=True)
    (got,) = torch.autograd.grad((noisy["noisy"] * weights).sum(), table.weight)
    assert noisy["noisy"].dtype == dtype
    assert not torch.equal(noisy["noisy"], seen["clean"])
    assert torch.equal(got, expected)
