"""Each regulariser against its formula by hand; what shares a training with it stays what it was."""

import contextlib
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from neftune.errors import ConfigError, UnknownNameError
from neftune.noise.perturb import perturb
from neftune.training.finetune import finetune
from neftune.training.randomness import stream_seed
from neftune.training.regularizers import make_regularizers
from tests.tiny_training import (
    assert_same_bits,
    tiny_documents,
    tiny_gpt2,
    tiny_llama,
    tiny_settings,
    tiny_tokenizer,
    weights,
)

DOCUMENTS = tiny_documents(8)
ONE_STEP = {"batch_size": 8, "epochs": 1, "evaluations": 1, "learning_rate": 0.0}


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and labels of all documents, padded on the right."""
    width = max(len(document.input_ids) for document in DOCUMENTS)
    ids, labels = torch.zeros(8, width, dtype=torch.int64), torch.full((8, width), -100)
    for row, document in enumerate(DOCUMENTS):
        tokens = torch.tensor(document.input_ids)
        ids[row, : len(tokens)] = tokens
        labels[row, : len(tokens)] = tokens.masked_fill(~torch.tensor(document.loss_mask), -100)
    return ids, (ids != 0).long(), labels


def logits_at(model: torch.nn.Module, shift: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at the trained tokens, and these tokens, by way of inputs_embeds."""
    ids, mask, labels = batch()
    embedded = model.get_input_embeddings()(ids)
    logits = model(inputs_embeds=embedded if shift is None else embedded + shift, attention_mask=mask).logits[:, :-1]
    trained = labels[:, 1:] != -100
    return logits[trained], labels[:, 1:][trained]


def first_step(tmp_path, regularizers: dict[str, Any], **train: Any) -> dict[str, float]:
    """Loss and gradient norm of one step over all documents, before clipping."""
    settings = tiny_settings(tmp_path, **ONE_STEP | {"regularizers": regularizers, "max_grad_norm": 1e9} | train)
    return dict(finetune(tiny_llama(), tiny_tokenizer(), DOCUMENTS, settings=settings).history[-1].values)


def gradient_norm(model: torch.nn.Module) -> float:
    return torch.stack([one.grad.norm() for one in model.parameters()]).norm().item()


def test_label_smoothing_is_the_mixture_with_the_uniform_distribution(tmp_path):
    logits, targets = logits_at(tiny_llama())
    expected = cross_entropy(logits, targets, label_smoothing=0.3).item()
    for micro in (8, 2):
        found = first_step(tmp_path, {"label_smoothing": 0.3}, micro_batch_size=micro)
        assert found["loss"] == pytest.approx(expected, rel=1e-5)


def r3f_shift(eps: float, *, step: int = 0) -> torch.Tensor:
    ids, mask, _ = batch()
    lengths = mask.sum(1)[:, None, None]
    zeros = torch.zeros(*ids.shape, 16)
    drawn = perturb(zeros, 1.0, attention_mask=mask, input_ids=ids, draw=step, seed=stream_seed(0, "r3f"))
    return eps * drawn * (lengths * 16).sqrt()


def test_r3f_is_the_symmetric_divergence_under_a_uniform_shift(tmp_path):
    model = tiny_llama()
    shift = r3f_shift(0.05)
    real = shift[batch()[1] > 0]
    assert real.abs().max() <= 0.05
    assert real.std() == pytest.approx(0.05 / 3**0.5, rel=0.05)
    assert not shift[batch()[1] == 0].any()
    (plain, targets), (moved, _) = logits_at(model), logits_at(model, shift)
    p, q = plain.log_softmax(-1), moved.log_softmax(-1)
    both = kl_div(p, q, log_target=True, reduction="sum") + kl_div(q, p, log_target=True, reduction="sum")
    loss = cross_entropy(plain, targets) + 2.0 * both / len(targets)
    loss.backward()
    for micro in (8, 2):
        found = first_step(tmp_path, {"r3f": {"strength": 2.0, "eps": 0.05}}, micro_batch_size=micro)
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert found["grad_norm"] == pytest.approx(gradient_norm(model), rel=1e-4)


@pytest.mark.parametrize("max_norm", [0.0, 0.3])
def test_freelb_is_the_authors_loop(tmp_path, max_norm):
    model = tiny_llama()
    ids, mask, _ = batch()
    zeros = torch.zeros(*ids.shape, 16)
    shift = perturb(zeros, 0.2, attention_mask=mask, input_ids=ids, draw=0, seed=stream_seed(0, "freelb"))
    total = 0.0
    for _ in range(3):
        shift = shift.detach().requires_grad_()
        loss = cross_entropy(*logits_at(model, shift)) / 3
        loss.backward()
        total += loss.item()
        norms = shift.grad.flatten(1).norm(dim=1)[:, None, None]
        shift = shift + 0.5 * shift.grad / norms
        if max_norm:
            lengths = shift.flatten(1).norm(dim=1)[:, None, None]
            shift = torch.where(lengths > max_norm, shift * max_norm / lengths, shift)
    settings = {"strength": 0.5, "steps": 3, "init": 0.2, "max_norm": max_norm}
    for micro in (8, 2):
        found = first_step(tmp_path, {"freelb": settings}, micro_batch_size=micro)
        assert found["loss"] == pytest.approx(total, rel=1e-5)
        assert found["grad_norm"] == pytest.approx(gradient_norm(model), rel=1e-4)


def test_freelb_climbs(tmp_path):
    plain, climbed = (first_step(tmp_path, one)["loss"] for one in ({}, {"freelb": {"strength": 0.3, "steps": 4}}))
    assert climbed > plain + 0.01


def test_noisytune_perturbs_each_trained_matrix_by_its_own_deviation_once(tmp_path):
    before, model = weights(tiny_llama()), tiny_llama()
    settings = tiny_settings(tmp_path, **ONE_STEP | {"regularizers": {"noisytune": 0.4}, "freeze": ["mlp"]})
    finetune(model, tiny_tokenizer(), DOCUMENTS, settings=settings)
    for name, value in weights(model).items():
        moved = value - before[name]
        if "mlp" in name or "norm" in name:
            assert not moved.any(), name
            continue
        half = 0.2 * before[name].std().item()
        assert moved.abs().max() <= half * 1.0001
        assert moved.std().item() == pytest.approx(half / 3**0.5, rel=0.15)
        assert abs(moved.mean().item()) < 0.2 * half


def test_dropout_of_a_llama_lies_behind_the_noise_and_on_every_branch(tmp_path):
    model, stream = tiny_llama(), []

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if module.training and torch.is_grad_enabled():
            stream.append(args[0].detach())

    for layer in model.model.layers:
        layer.input_layernorm.register_forward_pre_hook(keep)
        layer.post_attention_layernorm.register_forward_pre_hook(keep)
    settings = tiny_settings(tmp_path, **ONE_STEP | {"regularizers": {"dropout": 0.5}, "alpha": 5.0})
    finetune(model, tiny_tokenizer(), DOCUMENTS, settings=settings)
    assert len(stream) == 4
    added = [stream[0], *(after - before for before, after in itertools.pairwise(stream))]
    for one in added:
        assert (one == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_dropout_sets_the_rates_that_a_model_has_and_hooks_where_it_has_none(tmp_path):
    during: list[set[float]] = []
    model = tiny_gpt2(0.1)
    attention, others = (
        [m for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and ("attn_drop" in n) == is_attention]
        for is_attention in (True, False)
    )
    settings = tiny_settings(tmp_path, **ONE_STEP | {"regularizers": {"dropout": 0.4, "attention_dropout": 0.3}})
    rates = lambda _: during.extend([{m.p for m in others}, {m.p for m in attention}])  # noqa: E731
    finetune(model, tiny_tokenizer(), DOCUMENTS, settings=replace(settings, on_progress=rates))
    assert during == [{0.4}, {0.3}]
    assert {m.p for m in (*others, *attention)} == {0.1}


@pytest.mark.parametrize("name", ["label_smoothing", "r3f", "freelb"])
def test_passes_share_their_dropout_and_leave_that_of_the_run_alone(name, tmp_path):
    """torch's generator stands, after every step, where it stands without the regulariser."""
    states: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for is_on, kept in states.items():
        settings = tiny_settings(tmp_path, alpha=5.0, regularizers={name: 0.5 if is_on else 0}, epochs=1)
        settings = replace(settings, on_progress=lambda _, kept=kept: kept.append(torch.get_rng_state()))
        finetune(tiny_gpt2(0.2), tiny_tokenizer(), DOCUMENTS, settings=settings)
    assert len(states[True]) == 2
    assert all(torch.equal(*pair) for pair in zip(*states.values(), strict=True))


def test_without_a_shift_the_second_pass_says_the_same_in_spite_of_dropout_and_noise(tmp_path, monkeypatch):
    """R3F's penalty is exactly 0 only if masks and noise repeat to the bit."""
    from neftune.training.regularizers.r3f import R3F

    found: list[torch.Tensor] = []

    def penalty(self: R3F, tokens: Any) -> torch.Tensor:
        found.append(tokens.log_probs - tokens.again(torch.zeros(())))
        return 0 * tokens.log_probs.sum(1)

    monkeypatch.setattr(R3F, "penalty", penalty)
    monkeypatch.setattr("neftune.training.objective._Passes._shifted", lambda self, shift: contextlib.nullcontext())
    settings = tiny_settings(tmp_path, alpha=5.0, regularizers={"r3f": 1.0, "dropout": 0.3, "attention_dropout": 0.3})
    finetune(tiny_gpt2(0.2), tiny_tokenizer(), DOCUMENTS, settings=settings)
    assert len(found) == 4
    assert not any(difference.any() for difference in found)


def test_all_at_once_train_and_repeat_to_the_bit(tmp_path):
    asked = {
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "label_smoothing": 0.1,
        "noisytune": 0.1,
        "r3f": {"strength": 1.0, "eps": 0.01},
        "freelb": 0.1,
    }
    results = []
    for turn in range(2):
        model = tiny_llama()
        settings = tiny_settings(tmp_path / str(turn), alpha=5.0, regularizers=asked)
        finetune(model, tiny_tokenizer(), DOCUMENTS, settings=settings)
        results.append(weights(model))
    assert_same_bits(*results)


def test_a_shift_that_rounding_swallows_is_refused(tmp_path):
    model = tiny_llama().bfloat16()
    settings = tiny_settings(tmp_path, regularizers={"r3f": 1.0})
    with pytest.raises(ConfigError, match=r"vanishes in bfloat16. Raise train.regularizers.r3f.eps"):
        finetune(model, tiny_tokenizer(), DOCUMENTS, settings=settings)
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"dropuot": 0.1}, UnknownNameError, "Did you mean 'dropout'"),
        ({"dropout": 1.0}, ConfigError, r"train.regularizers.dropout: strength: .*less than 1, got 1.0"),
        ({"r3f": -1}, ConfigError, "greater than 0"),
        ({"r3f": {"eps": 0.1}}, ConfigError, "strength is required and was not given"),
        ({"freelb": {"strength": 1, "step": 3}}, ConfigError, "Did you mean 'steps'"),
        ({"freelb": {"strength": 1, "steps": 1}}, ConfigError, "greater than or equal to 2"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place(asked, error, message):
    with pytest.raises(error, match=message):
        make_regularizers(asked)
