"""Arms with one seed are pairs: data order, dropout and adapters are shared bit for bit; only the noise differs."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from neftune.config import DataConfig, LoraConfig, ModelConfig
from neftune.training.collator import Collator
from neftune.training.finetune import finetune
from neftune.training.models import load_model
from neftune.training.randomness import stream_seed
from tests.tiny_training import (
    assert_same_bits,
    tiny_documents,
    tiny_gpt2,
    tiny_llama,
    tiny_settings,
    tiny_tokenizer,
    weights,
)


@contextmanager
def watched_training(model: torch.nn.Module):
    """Collects, of a tiny GPT-2: each batch it trains on, each dropout mask, what the embedding gave (with noise)."""
    seen: dict[str, list[torch.Tensor]] = {"batches": [], "masks": [], "embedded": []}
    plain = torch.nn.Dropout.forward

    def dropout(self: torch.nn.Dropout, x: torch.Tensor) -> torch.Tensor:
        if not (self.training and self.p):
            return plain(self, x)
        mask = torch.nn.functional.dropout(torch.ones_like(x), self.p, training=True)
        seen["masks"].append(mask != 0)
        return x * mask

    def batch(module: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if module.training:
            seen["batches"].append(kwargs["input_ids"].clone())

    def embedded(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        if module.training:
            seen["embedded"].append(args[0].detach().clone())

    hooks = [
        model.register_forward_pre_hook(batch, with_kwargs=True),
        model.transformer.drop.register_forward_pre_hook(embedded),
    ]
    torch.nn.Dropout.forward = dropout
    try:
        yield seen
    finally:
        torch.nn.Dropout.forward = plain
        for hook in hooks:
            hook.remove()


def train_and_watch(folder: Path, *, alpha: float, seed: int = 0) -> dict[str, list[torch.Tensor]]:
    model = tiny_gpt2(dropout=0.2)
    settings = tiny_settings(folder, alpha=alpha, seed=seed, learning_rate=0.0, micro_batch_size=2)
    with watched_training(model) as seen:
        finetune(model, tiny_tokenizer(), tiny_documents(), settings=settings)
    return seen


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_arms_share_batches_and_dropout_and_differ_in_noise(tmp_path):
    arms = {alpha: train_and_watch(tmp_path, alpha=alpha) for alpha in (0.0, 5.0, 15.0)}
    baseline = arms[0.0]
    assert len(baseline["batches"]) == 20
    assert len(baseline["masks"]) == 20 * 5
    for alpha in (5.0, 15.0):
        assert same(baseline["batches"], arms[alpha]["batches"])
        assert same(baseline["masks"], arms[alpha]["masks"])
        noise = [noisy - clean for noisy, clean in zip(arms[alpha]["embedded"], baseline["embedded"], strict=True)]
        assert all(difference.abs().max() > 0 for difference in noise)
    # One stream of noise, scaled: an arm differs from another in the strength of its noise alone.
    for clean, weak, strong in zip(*(arms[alpha]["embedded"] for alpha in arms), strict=True):
        torch.testing.assert_close(strong - clean, 3 * (weak - clean), rtol=1e-3, atol=1e-5)


def test_seeds_differ_in_order_dropout_and_noise_also_across_epochs(tmp_path):
    first, second = (train_and_watch(tmp_path, alpha=5.0, seed=seed) for seed in (0, 1))
    assert not same(first["batches"], second["batches"])
    assert not same(first["masks"], second["masks"])
    # The second epoch of one seed is not the first epoch of the next.
    assert not same(first["batches"][10:], second["batches"][:10])


def test_every_epoch_visits_every_document_once_in_a_new_order(tmp_path):
    batches = train_and_watch(tmp_path, alpha=0.0)["batches"]
    expected = sorted(document.input_ids for document in tiny_documents())
    for epoch in (batches[:10], batches[10:]):
        rows = [tuple(row[row != 0].tolist()) for batch in epoch for row in batch]
        assert sorted(rows) == expected
    assert not same(batches[:10], batches[10:])


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_alpha_zero_is_a_plain_trainer(tmp_path, build):
    ours, plain = build(), build()
    documents, tokenizer = tiny_documents(), tiny_tokenizer()
    finetune(ours, tokenizer, documents, settings=tiny_settings(tmp_path / "ours", weight_decay=0.1))
    arguments = SFTConfig(
        output_dir=str(tmp_path / "plain"),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        weight_decay=0.1,
        max_grad_norm=1.0,
        activation_checkpointing=False,
        bf16=False,
        seed=stream_seed(0, "dropout"),
        data_seed=stream_seed(0, "data order"),
        max_length=None,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = [
        {
            "input_ids": list(document.input_ids),
            "labels": [t if m else -100 for t, m in zip(document.input_ids, document.loss_mask, strict=True)],
        }
        for document in documents
    ]
    trainer = SFTTrainer(model=plain, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    assert_same_bits(weights(ours), weights(plain))


def test_collator_is_trls_own_bit_for_bit():
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    documents = tiny_documents(5)
    rows = [
        {
            "input_ids": list(document.input_ids),
            "labels": [t if m else -100 for t, m in zip(document.input_ids, document.loss_mask, strict=True)],
        }
        for document in documents
    ]
    expected = DataCollatorForLanguageModeling(pad_token_id=0)(rows)
    batch = Collator(documents, pad_token_id=0)([{"index": index} for index in range(5)])
    assert_same_bits(batch, expected)


def test_what_ran_before_changes_nothing(tmp_path):
    results = []
    for noise_before in (False, True):
        model = tiny_gpt2()
        if noise_before:
            torch.manual_seed(99)
            torch.rand(17)
        finetune(model, tiny_tokenizer(), tiny_documents(), settings=tiny_settings(tmp_path, alpha=5.0))
        results.append(weights(model))
    assert_same_bits(*results)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tiny_llama().save_pretrained(str(tmp_path / "base"))
    tiny_tokenizer().save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


def test_adapters_start_the_same_for_one_seed_whatever_ran_before(checkpoint):
    config = ModelConfig(path=str(checkpoint), adapter="lora", lora=LoraConfig(r=4))
    data = DataConfig(max_length=64)
    first = weights(load_model(config, data, seed=3).model)
    torch.rand(31)
    assert_same_bits(first, weights(load_model(config, data, seed=3).model))
    other = weights(load_model(config, data, seed=4).model)
    assert any("lora_A" in name and not torch.equal(value, other[name]) for name, value in first.items())
