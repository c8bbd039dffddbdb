"""DoRA, QLoRA and adapters on int8: trained, repeated to the bit, saved and read again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neftune.config import DataConfig, LoraConfig, ModelConfig
from neftune.errors import MissingExtraError
from neftune.training.finetune import finetune
from neftune.training.models import LoadedModel, load_model
from tests.tiny_training import assert_same_bits, tiny_documents, tiny_llama, tiny_settings, tiny_tokenizer, weights

pytest.importorskip("bitsandbytes")
DATA = DataConfig(max_length=64)
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"adapter": "dora"},
    "qlora": {"adapter": "lora", "quantization": "nf4"},
    "qdora": {"adapter": "dora", "quantization": "nf4"},
    "int8": {"adapter": "lora", "quantization": "int8"},
}

# What PEFT itself calls.
pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_llama(hidden_size=64, intermediate_size=128, num_hidden_layers=1).save_pretrained(str(folder))
    tiny_tokenizer().save_pretrained(str(folder))
    return folder


def load(path: Path, **model: Any) -> LoadedModel:
    config = ModelConfig.model_validate({"path": str(path), "lora": LoraConfig(r=4, dropout=0.1), **model})
    return load_model(config, DATA, seed=0)


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(input_ids=torch.arange(3, 12)[None]).logits


class BrokenError(Exception):
    pass


def break_off(progress: Any) -> None:
    if progress.step == 5:
        raise BrokenError


@pytest.mark.parametrize("kind", KINDS)
def test_trains_adapters_alone_and_goes_on_where_it_broke_off(kind, checkpoint, tmp_path):
    def once(folder: Path, **more: Any):
        loaded = load(checkpoint, **KINDS[kind])
        before = weights(loaded.model)
        settings = replace(tiny_settings(folder, alpha=5.0, checkpoints=4), **more)
        result = finetune(loaded.model, loaded.tokenizer, tiny_documents(), settings=settings)
        return loaded, before, result

    loaded, before, result = once(tmp_path / "whole")
    changed = {name for name, value in weights(loaded.model).items() if not torch.equal(value, before[name])}
    trained = {name for name, value in loaded.model.named_parameters() if value.requires_grad}
    assert changed == trained
    assert all("lora_" in name for name in trained)
    assert any("magnitude" in name for name in trained) == (KINDS[kind]["adapter"] == "dora")
    assert result.noise.num_documents == 40
    with pytest.raises(BrokenError):
        once(tmp_path / "broken", on_progress=break_off)
    assert list((tmp_path / "broken").rglob("checkpoint-*"))
    again, _, resumed = once(tmp_path / "broken")
    assert_same_bits(weights(loaded.model), weights(again.model))
    assert resumed.history == result.history


def test_weights_are_held_as_asked(checkpoint):
    import bitsandbytes

    kinds = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}
    for name, kind in kinds.items():
        network = load(checkpoint, adapter="lora", quantization=name).model
        held = [module for module in network.modules() if isinstance(module, kind)]
        assert len(held) == 7, "every linear layer but the head"
    layer = load(checkpoint, adapter="lora", quantization="nf4").model.base_model.model.model.layers[0].mlp.up_proj
    assert layer.base_layer.weight.quant_type == "nf4"
    assert layer.base_layer.weight.quant_state.nested, "double quantisation"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_run_answers_as_the_trained_model(kind, checkpoint, tmp_path):
    loaded = load(checkpoint, **KINDS[kind])
    settings = tiny_settings(tmp_path / "run", alpha=5.0)
    finetune(loaded.model, loaded.tokenizer, tiny_documents(), settings=settings)
    before = weights(loaded.model)
    loaded.save(tmp_path / "model")
    assert_same_bits(before, weights(loaded.model))
    quantization = KINDS[kind].get("quantization")
    assert (tmp_path / "model" / "adapter_config.json").exists() == (quantization is not None)
    again = load(tmp_path / "model", quantization=quantization)
    assert not any(value.requires_grad for value in again.model.parameters()) or quantization is None
    torch.testing.assert_close(logits(again), logits(loaded), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits(again), logits(load(checkpoint, quantization=quantization)), atol=1e-3)


def test_quantised_weights_do_without_adapters_where_nothing_trains(checkpoint):
    exact, held = logits(load(checkpoint)), logits(load(checkpoint, quantization="nf4"))
    assert not torch.equal(exact, held)
    assert torch.nn.functional.cosine_similarity(exact, held, dim=-1).min() > 0.9


def test_without_the_library_it_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"model.quantization 'nf4' needs bitsandbytes"):
        load(checkpoint, adapter="lora", quantization="nf4")


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_loading_and_running_prints_and_warns_of_nothing(quantization, checkpoint, capfd, caplog):
    capfd.readouterr()
    logits(load(checkpoint, adapter="lora", quantization=quantization))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
