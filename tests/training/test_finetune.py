import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from neftune.config import NoiseConfig
from neftune.errors import ConfigError, DataError, DivergedError, StoreError
from neftune.records import Document
from neftune.training.checkpoints import remove_checkpoints
from neftune.training.finetune import finetune
from neftune.training.probes import Progress
from tests.tiny_training import (
    assert_same_bits,
    tiny_documents,
    tiny_gpt2,
    tiny_llama,
    tiny_settings,
    tiny_tokenizer,
    weights,
)


def token_mean_loss(model: torch.nn.Module, documents: list[Document]) -> float:
    """The loss over all response tokens together, one document at a time, by hand."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for document in documents:
            ids = torch.tensor(document.input_ids)
            logits = model(input_ids=ids[None]).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            mask = torch.tensor(document.loss_mask[1:])
            total, tokens = total + losses[mask].sum().item(), tokens + int(mask.sum())
    return total / tokens


def test_learns_the_responses_and_nothing_else(tmp_path):
    model = tiny_llama()
    document = Document("a", (1, 5, 6, 7, 8, 2), (False, False, False, True, True, True))
    finetune(model, tiny_tokenizer(), [document], settings=tiny_settings(tmp_path, batch_size=1, epochs=60))
    logits = model(input_ids=torch.tensor([document.input_ids])).logits[0]
    assert logits[2:5].argmax(-1).tolist() == [7, 8, 2]
    assert logits[0:2].argmax(-1).tolist() != [5, 6]


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_first_loss_is_the_token_mean_of_the_whole_optimiser_batch(tmp_path, micro):
    model, documents = tiny_llama(), tiny_documents(8)
    expected = token_mean_loss(model, documents)
    settings = tiny_settings(tmp_path, batch_size=8, micro_batch_size=micro, epochs=1, evaluations=1)
    history = finetune(model, tiny_tokenizer(), documents, settings=settings).history
    assert history[-1].values["loss"] == pytest.approx(expected, rel=1e-5)


class StrictLlama(LlamaForCausalLM):
    """A forward as older remote code has it: without loss arguments, so that the trainer must not rely on them."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, use_cache=None):
        return super().forward(input_ids, attention_mask=attention_mask, labels=labels, use_cache=use_cache)


def test_loss_is_the_token_mean_also_where_the_model_takes_no_loss_arguments(tmp_path):
    model, documents = StrictLlama(tiny_llama().config), tiny_documents(8)
    expected = token_mean_loss(model.eval(), documents)
    settings = tiny_settings(tmp_path, batch_size=8, micro_batch_size=2, epochs=1, evaluations=1)
    history = finetune(model, tiny_tokenizer(), documents, settings=settings).history
    assert history[-1].values["loss"] == pytest.approx(expected, rel=1e-5)


def test_every_setting_of_the_noise_reaches_it(tmp_path):
    documents, received = tiny_documents(8), {}
    for positions, schedule in (("all", "constant"), ("all", "linear"), ("response", "constant")):
        noise = NoiseConfig(alpha=5.0, positions=positions, schedule=schedule)
        settings = replace(tiny_settings(tmp_path, batch_size=8, epochs=4, alpha=5.0), noise=noise)
        received[positions, schedule] = finetune(tiny_llama(), tiny_tokenizer(), documents, settings=settings).noise
    plain = received["all", "constant"]
    assert plain.num_tokens == 4 * sum(len(document.input_ids) for document in documents)
    assert received["all", "linear"].alpha_mean == pytest.approx(5 * (1 + 0.75 + 0.5 + 0.25) / 4, rel=0.1)
    assert received["response", "constant"].num_tokens == 4 * sum(sum(document.loss_mask) for document in documents)


def test_gradient_accumulation_does_not_change_the_update(tmp_path):
    results = []
    for micro in (8, 2):
        model = tiny_llama()
        settings = tiny_settings(tmp_path, batch_size=8, micro_batch_size=micro, epochs=3, learning_rate=1e-3)
        finetune(model, tiny_tokenizer(), tiny_documents(21), settings=settings)
        results.append(weights(model))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0.0, 0.5, *(0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8))]),
    ],
)
def test_learning_rate_follows_warmup_and_schedule(tmp_path, schedule, expected):
    seen: list[Progress] = []
    settings = tiny_settings(tmp_path, schedule=schedule, warmup_ratio=0.2, learning_rate=1e-3)
    settings = replace(settings, on_progress=seen.append)
    finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)
    assert [p.values["learning_rate"] for p in seen] == pytest.approx([1e-3 * value for value in expected], abs=1e-9)
    assert [(p.step, p.num_steps) for p in seen] == [(step, 10) for step in range(1, 11)]


def test_history_has_start_intervals_and_end(tmp_path):
    model = tiny_llama()
    documents = tiny_documents()
    probes = {"clean_train_loss": lambda: token_mean_loss(model, documents), "clean_heldout_loss": lambda: 3.0}
    result = finetune(model, tiny_tokenizer(), documents, settings=tiny_settings(tmp_path, probes=probes))
    assert [point.step for point in result.history] == [0, 3, 7, 10]
    assert [point.epoch for point in result.history] == pytest.approx([0, 0.6, 1.4, 2.0])
    assert set(result.history[0].values) == {"clean_train_loss", "clean_heldout_loss"}
    assert set(result.history[-1].values) == {
        "clean_train_loss",
        "clean_heldout_loss",
        "loss",
        "learning_rate",
        "grad_norm",
    }
    assert result.history[-1].values["clean_train_loss"] < result.history[0].values["clean_train_loss"]
    assert result.counts["steps"] == 10
    assert result.noise is None
    assert not result.stopped_early


def test_probing_does_not_disturb_training(tmp_path):
    def draw() -> float:
        assert not model.training
        return torch.rand(()).item()

    results = []
    for probes in ({}, {"clean_train_loss": draw}):
        model = tiny_gpt2()
        finetune(
            model, tiny_tokenizer(), tiny_documents(), settings=tiny_settings(tmp_path, probes=probes, evaluations=4)
        )
        results.append(weights(model))
    assert_same_bits(*results)


def test_model_comes_back_as_it_was_but_trained(tmp_path):
    model = tiny_llama()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    finetune(model, tiny_tokenizer(), tiny_documents(), settings=tiny_settings(tmp_path, alpha=5.0))
    assert not model.training
    assert "forward" not in vars(model)
    assert not model.get_input_embeddings()._forward_hooks
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert list(tmp_path.rglob("*")) == []


def test_stops_at_the_first_clean_loss_at_or_below_the_target(tmp_path):
    losses = iter([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    probes = {"clean_train_loss": lambda: next(losses), "clean_heldout_loss": lambda: 7.0}
    settings = replace(tiny_settings(tmp_path, probes=probes, evaluations=1), stop_at_clean_train_loss=3.0)
    result = finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)
    assert result.stopped_early
    assert [point.step for point in result.history] == [0, 1, 2]
    assert result.history[-1].values["clean_train_loss"] == 3.0
    assert result.history[-1].values["clean_heldout_loss"] == 7.0
    assert result.counts["steps"] == 2
    assert result.counts["stop_loss_reached"] == 1


def test_says_so_when_the_target_is_never_reached(tmp_path):
    settings = tiny_settings(tmp_path, probes={"clean_train_loss": lambda: 4.0})
    result = finetune(
        tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=replace(settings, stop_at_clean_train_loss=3.0)
    )
    assert not result.stopped_early
    assert result.counts["steps"] == 10
    assert result.counts["stop_loss_reached"] == 0


def test_does_not_train_a_model_that_starts_at_the_target(tmp_path):
    model = tiny_llama()
    before = weights(model)
    settings = tiny_settings(tmp_path, probes={"clean_train_loss": lambda: 2.0})
    result = finetune(
        model, tiny_tokenizer(), tiny_documents(), settings=replace(settings, stop_at_clean_train_loss=3.0)
    )
    assert (result.stopped_early, result.counts["steps"]) == (True, 0)
    assert_same_bits(before, weights(model))


def test_divergence_is_an_error_at_its_step(tmp_path):
    seen: list[int] = []
    model = tiny_llama()

    def poison(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.step == 3:
            with torch.no_grad():
                model.model.norm.weight.fill_(math.nan)

    settings = replace(tiny_settings(tmp_path, alpha=5.0), on_progress=poison)
    with pytest.raises(
        DivergedError, match=r"got nan at step 4 of 10 with learning rate .* Lower --train.learning_rate"
    ):
        finetune(model, tiny_tokenizer(), tiny_documents(), settings=settings)
    assert seen == [1, 2, 3]
    assert "forward" not in vars(model)
    assert not model.get_input_embeddings()._forward_hooks


def test_a_huge_learning_rate_diverges_clearly(tmp_path):
    settings = tiny_settings(tmp_path, learning_rate=1e38, schedule="constant", warmup_ratio=0, epochs=20)
    with pytest.raises(DivergedError):
        finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)


def test_refuses_what_cannot_be_trained(tmp_path):
    model, tokenizer, settings = tiny_llama(), tiny_tokenizer(), tiny_settings(tmp_path)
    with pytest.raises(DataError, match="at least one document"):
        finetune(model, tokenizer, [], settings=settings)
    with pytest.raises(DataError, match="example z has none"):
        finetune(model, tokenizer, [Document("z", (1, 5), (False, False))], settings=settings)
    with pytest.raises(ConfigError, match="micro_batch_size 2"):
        finetune(model, tokenizer, tiny_documents(), settings=tiny_settings(tmp_path, batch_size=6, micro_batch_size=4))
    with pytest.raises(ConfigError, match="clean_train_loss"):
        finetune(model, tokenizer, tiny_documents(), settings=replace(settings, stop_at_clean_train_loss=1.0))


def test_gradient_checkpointing_is_obeyed_and_changes_nothing(tmp_path):
    results = []
    for asked in (False, True):
        model = tiny_llama()
        during: list[bool] = []
        settings = tiny_settings(tmp_path, gradient_checkpointing=asked)
        settings = replace(settings, on_progress=lambda _, m=model, d=during: d.append(m.is_activation_checkpointing))
        finetune(model, tiny_tokenizer(), tiny_documents(), settings=settings)
        assert all(flag == asked for flag in during)
        assert not model.is_activation_checkpointing
        results.append(weights(model))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], msg=name)


def test_prints_nothing_and_writes_only_into_its_folder(tmp_path, capfd, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    settings = tiny_settings(tmp_path / "run", checkpoints=1)
    finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)
    assert capfd.readouterr() == ("", "")
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "run"}
    remove_checkpoints(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("last_only", [False, True])
def test_checkpoints_of_another_model_are_refused(tmp_path, last_only):
    settings = tiny_settings(tmp_path, checkpoints=3)
    finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)
    other = tiny_llama()
    parameters = list(other.parameters())
    with torch.no_grad():
        for parameter in parameters[-1:] if last_only else parameters:
            parameter += 0.25
    with pytest.raises(StoreError, match="starting weights"):
        finetune(other, tiny_tokenizer(), tiny_documents(), settings=settings)


def test_checkpoints_of_a_model_with_other_frozen_weights_are_refused(tmp_path):
    settings = tiny_settings(tmp_path, checkpoints=3)
    finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)
    frozen = tiny_llama()
    frozen.get_input_embeddings().requires_grad_(False)
    with pytest.raises(StoreError, match="starting weights"):
        finetune(frozen, tiny_tokenizer(), tiny_documents(), settings=settings)


@pytest.mark.parametrize("name", ["n_gpu", "world_size"])
def test_several_devices_are_refused_rather_than_multiply_the_batch(tmp_path, monkeypatch, name):
    from trl.trainer.sft_config import SFTConfig

    monkeypatch.setattr(SFTConfig, name, property(lambda self: 2))
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=0"):
        finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=tiny_settings(tmp_path))
