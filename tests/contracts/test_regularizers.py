"""Every registered regulariser: it changes the training, and nothing that it does not say."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neftune.noise.handle import NoiseHandle
from neftune.training.finetune import finetune
from neftune.training.probes import Progress
from neftune.training.regularizers import regularizers
from tests.tiny_training import (
    assert_same_bits,
    tiny_documents,
    tiny_gpt2,
    tiny_llama,
    tiny_settings,
    tiny_tokenizer,
    weights,
)

STRENGTH: dict[str, Any] = {
    "dropout": 0.2,
    "attention_dropout": 0.3,
    "label_smoothing": 0.1,
    "noisytune": 0.5,
    "r3f": {"strength": 1.0, "eps": 0.05},
    "freelb": {"strength": 0.5, "steps": 3, "init": 0.2},
}
"""One setting each that a tiny model feels; a new entry without a line here fails."""

MODELS = {"llama": tiny_llama, "gpt2": lambda: tiny_gpt2(0.1)}


def train(folder: Path, build: Callable[[], torch.nn.Module] = tiny_llama, **options: Any):
    """One epoch of 12 documents in 3 steps of 2 micro-batches."""
    model = build()
    settings = tiny_settings(folder, **{"micro_batch_size": 2, "epochs": 1} | options)
    return model, finetune(model, tiny_tokenizer(), tiny_documents(12), settings=settings)


def test_every_entry_has_a_setting_here():
    assert set(STRENGTH) == set(regularizers)


@pytest.mark.parametrize("name", regularizers)
def test_names_its_source_and_every_setting(name):
    entry = regularizers[name]
    assert "Source: " in (entry.__doc__ or "")
    assert len((entry.__doc__ or "").splitlines()[0]) <= 120
    for field in entry.model_fields.values():
        assert field.description


@pytest.mark.parametrize("name", regularizers)
@pytest.mark.parametrize("model", MODELS)
def test_changes_the_training_and_leaves_the_model_clean(name, model, tmp_path):
    plain, _ = train(tmp_path / "plain", MODELS[model], alpha=5.0)
    changed, _ = train(tmp_path / "with", MODELS[model], alpha=5.0, regularizers={name: STRENGTH[name]})
    assert any(not torch.equal(value, weights(changed)[key]) for key, value in weights(plain).items())
    _assert_clean(changed, plain)


def _assert_clean(model: torch.nn.Module, plain: torch.nn.Module) -> None:
    """No hook, rate or attribute is left of the training that a plain one does not leave."""
    for module, other in zip(model.modules(), plain.modules(), strict=True):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module.training
        assert {k: v for k, v in vars(module).items() if isinstance(v, float)} == {
            k: v for k, v in vars(other).items() if isinstance(v, float)
        }
        assert set(vars(module)) == set(vars(other))


def test_strength_0_is_absence_to_the_bit(tmp_path):
    plain, before = train(tmp_path / "plain", alpha=5.0)
    off, after = train(tmp_path / "off", alpha=5.0, regularizers=dict.fromkeys(regularizers, 0))
    assert_same_bits(weights(plain), weights(off))
    assert before.history == after.history


@pytest.mark.parametrize("name", regularizers)
def test_a_training_that_broke_off_goes_on_to_the_same_bits(name, tmp_path):
    class BrokenError(Exception):
        pass

    def break_off(progress: Progress) -> None:
        if progress.step == 2:
            raise BrokenError

    def once(folder: Path, *, breaks: bool):
        model = tiny_gpt2(0.1)
        options = {"alpha": 5.0, "epochs": 1, "checkpoints": 2, "regularizers": {name: STRENGTH[name]}}
        settings = tiny_settings(folder, micro_batch_size=2, **options)
        settings = replace(settings, on_progress=break_off if breaks else None)
        result = finetune(model, tiny_tokenizer(), tiny_documents(12), settings=settings)
        return weights(model), result

    whole, expected = once(tmp_path / "whole", breaks=False)
    with pytest.raises(BrokenError):
        once(tmp_path / "broken", breaks=True)
    assert list((tmp_path / "broken").rglob("checkpoint-*"))
    resumed, result = once(tmp_path / "broken", breaks=False)
    assert_same_bits(whole, resumed)
    assert (result.history, result.noise) == (expected.history, expected.noise)


@pytest.fixture
def noised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every batch that the noise is added to: its token ids, and its embeddings with the noise in them."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = NoiseHandle.noise

    def noise(self: NoiseHandle, embedded: torch.Tensor, input_ids: torch.Tensor, *rest: Any, **more: Any):
        result = real(self, embedded, input_ids, *rest, **more)
        seen.append((input_ids.clone(), result.detach().clone()))
        return result

    monkeypatch.setattr(NoiseHandle, "noise", noise)
    return seen


PASSES = {"r3f": 2, "freelb": 3}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [name for name in regularizers if name != "noisytune"])
def test_data_order_and_noise_stay_bit_for_bit_and_count_once(name, model, tmp_path, noised):
    """With learning rate 0 the weights stay, so that what is noised is the same rows in the same order."""
    options: dict[str, Any] = {"learning_rate": 0.0, "epochs": 2, "alpha": 5.0}
    _, plain = train(tmp_path / "plain", MODELS[model], **options)
    before = list(noised)
    noised.clear()
    _, changed = train(tmp_path / "with", MODELS[model], **options, regularizers={name: STRENGTH[name]})
    passes = PASSES.get(name, 1)
    assert len(noised) == passes * len(before) == passes * 12
    for index, (ids, embedded) in enumerate(noised):
        assert torch.equal(ids, before[index // passes][0])
        assert torch.equal(embedded, before[index // passes][1])
    assert changed.noise == plain.noise
    assert plain.noise.num_documents == 24
