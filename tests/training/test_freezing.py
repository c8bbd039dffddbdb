"""Frozen parts stay to the bit, all else trains, and what cannot be frozen alone is refused."""

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from neftune.errors import ConfigError
from neftune.training.finetune import finetune
from neftune.training.freezing import frozen, parameters_by_part
from tests.tiny_training import tiny_documents, tiny_gpt2, tiny_llama, tiny_settings, tiny_tokenizer, weights


def untied_llama() -> torch.nn.Module:
    return tiny_llama(tie_word_embeddings=False)


NAMED = {
    "embeddings": ("embed_tokens",),
    "head": ("lm_head",),
    "attention": ("self_attn",),
    "mlp": ("mlp",),
    "norms": ("norm",),
}
"""What a Llama calls the parameters of each part."""


@pytest.mark.parametrize("part", NAMED)
def test_a_part_stays_and_all_others_train(part, tmp_path):
    model, before = untied_llama(), weights(untied_llama())
    settings = tiny_settings(tmp_path, alpha=5.0, freeze=[part])
    result = finetune(model, tiny_tokenizer(), tiny_documents(), settings=settings)
    inside = {name for name in before if any(word in name for word in NAMED[part])}
    assert inside
    for name, value in weights(model).items():
        assert torch.equal(value, before[name]) == (name in inside), name
    assert all(one.requires_grad for one in model.parameters())
    num_frozen = sum(before[name].numel() for name in inside)
    assert result.counts["parameters_trained"] == result.counts["parameters"] - num_frozen
    assert result.noise.num_documents == 40


@pytest.mark.parametrize("build", [untied_llama, tiny_llama, tiny_gpt2])
def test_the_parts_are_the_whole_model(build):
    model = build()
    parts = parameters_by_part(model)
    assert {id(one) for part in parts.values() for one in part} == {id(one) for one in model.parameters()}
    for one, other in (("attention", "mlp"), ("mlp", "norms"), ("embeddings", "attention")):
        assert not {id(p) for p in parts[one]} & {id(p) for p in parts[other]}


def test_layers_whose_mlp_has_no_module_of_its_own():
    config = OPTConfig(
        vocab_size=40,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
    )
    model = OPTForCausalLM(config)
    names = {id(one): name for name, one in model.named_parameters()}
    parts = {part: {names[id(one)] for one in found} for part, found in parameters_by_part(model).items()}
    assert {name.split(".")[4] for name in parts["mlp"]} == {"fc1", "fc2"}
    assert parts["embeddings"] == {"model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"}


@pytest.mark.parametrize(("part", "other"), [("head", "embeddings"), ("embeddings", "head")])
def test_half_of_a_tied_pair_is_refused_with_its_reason(part, other, tmp_path):
    settings = tiny_settings(tmp_path, freeze=[part])
    with pytest.raises(ConfigError, match=f"freezing the {part} of this LlamaForCausalLM freezes its {other} too"):
        finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)
    model, before = tiny_llama(), weights(tiny_llama())
    settings = tiny_settings(tmp_path, freeze=["embeddings", "head"])
    finetune(model, tiny_tokenizer(), tiny_documents(), settings=settings)
    assert torch.equal(model.lm_head.weight, before["lm_head.weight"])


def test_nothing_left_to_train_is_refused():
    parts = ["embeddings", "head", "attention", "mlp", "norms"]
    model = tiny_llama()
    with pytest.raises(ConfigError, match="something must be left to train"), frozen(model, parts):
        pass
    assert all(one.requires_grad for one in model.parameters())


def test_a_part_that_the_model_lacks_is_refused():
    model = tiny_llama()
    model.lm_head = None
    with pytest.raises(ConfigError, match="LlamaForCausalLM has no head"), frozen(model, ["head"]):
        pass


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_train_behind_frozen_embeddings_with_recomputation_too(checkpointing, tmp_path):
    model, before = untied_llama(), weights(untied_llama())
    settings = tiny_settings(tmp_path, alpha=5.0, freeze=["embeddings"], gradient_checkpointing=checkpointing)
    finetune(model, tiny_tokenizer(), tiny_documents(), settings=settings)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(weights(model)[name], before[name])
