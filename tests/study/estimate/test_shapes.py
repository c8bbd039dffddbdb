"""A model's sizes from its config alone are those of the real model."""

from pathlib import Path

import pytest
import torch

from neftune.config import DataConfig, LoraConfig, ModelConfig
from neftune.errors import ModelError
from neftune.study.estimate.shapes import model_shape, tokenizer_at_hand
from tests.tiny_families import SMALL, Family
from tests.tiny_training import tiny_tokenizer

ROOT = Path(__file__).parents[3]
DATA = DataConfig()
_GPT = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
_OPT = {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", {**SMALL, "tie_word_embeddings": False}),
    "llama-tied": Family("LlamaForCausalLM", {**SMALL, "tie_word_embeddings": True}),
    "gpt2": Family("GPT2LMHeadModel", _GPT),
    "opt": Family("OPTForCausalLM", _OPT),
    "gemma2": Family("Gemma2ForCausalLM", {**SMALL, "head_dim": 16}),
    "mixtral": Family("MixtralForCausalLM", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "falcon": Family("FalconForCausalLM", {**SMALL, "num_hidden_layers": 2}),
    "qwen2": Family("Qwen2ForCausalLM", SMALL),
}


def saved(family: Family, folder: Path) -> tuple[torch.nn.Module, ModelConfig]:
    """A real model, and a folder that holds its config.json and nothing else."""
    model = family.build()
    model.config.save_pretrained(folder)
    assert [one.name for one in folder.iterdir()] == ["config.json"]
    return model, ModelConfig(path=str(folder))


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_the_real_models(name: str, tmp_path: Path):
    model, config = saved(FAMILIES[name], tmp_path)
    shape = model_shape(config, DATA)
    assert shape.parameters == shape.trained == sum(parameter.numel() for parameter in model.parameters())
    assert shape.adapters == 0
    assert shape.vocabulary == model.get_output_embeddings().weight.shape[0]
    assert shape.layers == model.config.num_hidden_layers


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_adapters_are_those_that_a_run_trains(name: str, adapter: str, tmp_path: Path):
    from neftune.training.models import _add_adapters

    model, config = saved(FAMILIES[name], tmp_path)
    config = config.model_copy(update={"adapter": adapter, "lora": LoraConfig(r=3)})
    adapted = _add_adapters(model, config)
    shape = model_shape(config, DATA)
    assert shape.parameters == sum(parameter.numel() for parameter in adapted.parameters())
    assert shape.trained == sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert shape.adapters == shape.trained > 0


def test_a_token_visits_its_share_of_the_experts(tmp_path: Path):
    model, config = saved(FAMILIES["mixtral"], tmp_path)
    experts = sum(one.numel() for name, one in model.named_parameters() if "experts" in name)
    linear = [one for one in model.modules() if isinstance(one, torch.nn.Linear)]
    assert model_shape(config, DATA).active == experts // 2 + sum(one.weight.numel() for one in linear)


def test_seven_billion_from_the_config_in_the_repository():
    shape = model_shape(ModelConfig(path=str(ROOT / "recipes/shapes/llama-2-7b"), dtype="bfloat16"), DATA)
    # transformers' count for meta-llama/Llama-2-7b-hf, published on its page as 6.74B
    assert shape.parameters == 6_738_415_616
    assert shape.active == shape.parameters - 32000 * 4096 - (2 * 32 + 1) * 4096
    assert tokenizer_at_hand(ModelConfig(path=str(ROOT / "recipes/shapes/llama-2-7b"))) is None


def test_the_real_checkpoint(shared: Path):
    for folder, parameters in (("stories260k", 260_032), ("babyllama-tok105-0.9m", 936_448)):
        config = ModelConfig(path=str(shared / "models" / folder))
        assert model_shape(config, DATA).parameters == parameters
        assert tokenizer_at_hand(config) is not None


def test_the_microworlds_base():
    shape = model_shape(ModelConfig(), DATA)
    assert shape.parameters == 437_248  # as every record of the quickstart says
    assert len(tokenizer_at_hand(ModelConfig())) == shape.vocabulary


def test_a_tokenizer_in_the_folder_is_found(tmp_path: Path):
    _, config = saved(FAMILIES["llama"], tmp_path)
    assert tokenizer_at_hand(config) is None
    tiny_tokenizer().save_pretrained(tmp_path)
    assert len(tokenizer_at_hand(config)) == 40


def test_a_model_that_is_not_here_says_how_to_give_its_config(tmp_path: Path):
    with pytest.raises(ModelError, match=r"meta-llama/Llama-2-7b-hf has none .* config.json alone is enough"):
        model_shape(ModelConfig(path="meta-llama/Llama-2-7b-hf"), DATA)
    with pytest.raises(ModelError, match=r"must hold a config.json"):
        model_shape(ModelConfig(path=str(tmp_path)), DATA)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match="causal language model, got T5Config"):
        model_shape(ModelConfig(path=str(tmp_path)), DATA)
