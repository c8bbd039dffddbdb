"""Every kind of adapter of PEFT leaves the noise what it is without one; a new kind joins by a line in a table."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
)
from torch import Tensor, nn

import neftune
from neftune.errors import NoiseError
from tests.tiny_families import WIDTH, make, make_batch, without_dropout

ALPHA, LENGTHS, NUM_VIRTUAL = 5.0, (30, 8), 3
TEXT = {"task_type": "CAUSAL_LM"}
VIRTUAL = {**TEXT, "num_virtual_tokens": NUM_VIRTUAL}

# What PEFT itself calls, and what it says of tied tables.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer is part:UserWarning"),
]

# What reaches the embedding, where attaching before wrapping cannot work.
WRAPPED = r"that was wrapped since .* Attach again after wrapping"
REPLACED = r"if the embedding was replaced or wrapped, or is in eval mode alone, attach again after that"
ADAPTERS: dict[str, tuple[Callable[[], Any], str | None]] = {
    "lora": (lambda: LoraConfig(target_modules="all-linear", **TEXT), None),
    "dora": (lambda: LoraConfig(target_modules="all-linear", use_dora=True, **TEXT), None),
    "ia3": (lambda: IA3Config(target_modules=["k_proj"], feedforward_modules=[], **TEXT), None),
    "saved": (lambda: LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], **TEXT), REPLACED),
    "lora-table": (lambda: LoraConfig(target_modules=["embed_tokens"], **TEXT), WRAPPED),
    "dora-table": (lambda: LoraConfig(target_modules=["embed_tokens"], use_dora=True, **TEXT), WRAPPED),
    "tokens": (lambda: LoraConfig(target_modules=["q_proj"], trainable_token_indices=[5, 6], **TEXT), REPLACED),
    "tokens-alone": (lambda: TrainableTokensConfig(token_indices=[5, 6], **TEXT), REPLACED),
}
EMBEDS = r"where a wrapper embeds \(PEFT's prompt tuning\), attach to the wrapper"
CACHES = r"virtual tokens \(PEFT's prefix tuning\), attach to the wrapper"
VIRTUAL_TOKENS: dict[str, tuple[Callable[[], Any], str]] = {
    "prompt": (lambda: PromptTuningConfig(**VIRTUAL), EMBEDS),
    "p": (lambda: PromptEncoderConfig(encoder_hidden_size=16, **VIRTUAL), EMBEDS),
    "prefix": (lambda: PrefixTuningConfig(**VIRTUAL), CACHES),
}


def wrap(model: nn.Module, config: Any) -> PeftModel:
    """The model with an adapter, both without dropout and in training mode."""
    torch.manual_seed(1)
    return without_dropout(peft.get_peft_model(model, config)).train()


def embedded(model: nn.Module, table: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What the rest of the model reads of its table."""
    seen: list[Tensor] = []
    hook = table.register_forward_hook(lambda _m, _a, output: seen.append(output.detach().clone()))
    model(**batch)
    hook.remove()
    return seen[0]


def plain_noisy(family: str) -> Tensor:
    """The same of the model without an adapter, at the same exposure."""
    model = without_dropout(make(family))
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(1)
        return embedded(model, model.get_input_embeddings(), make_batch(LENGTHS))


@pytest.mark.parametrize("family", ["llama", "gemma", "llama-tied"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_attached_after_wrapping_the_noise_is_that_without_an_adapter(name, family):
    tuned, batch = wrap(make(family), ADAPTERS[name][0]()), make_batch(LENGTHS)
    table, padding = tuned.get_input_embeddings(), batch["attention_mask"] == 0
    with neftune.attach(tuned, ALPHA) as handle:
        handle.set_epoch(1)
        noisy = embedded(tuned, table, batch)
        assert torch.allclose(noisy, plain_noisy(family), atol=1e-5, rtol=1e-5)
        with handle.paused():
            assert torch.equal(embedded(tuned, table, batch)[padding], noisy[padding])
        tuned(**batch).loss.backward()
        assert handle.realised().num_tokens == 2 * sum(LENGTHS)
    trained = {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained.values())
    assert torch.equal(tuned(**batch).loss, tuned(**batch).loss)


@pytest.mark.parametrize("name", ADAPTERS)
def test_attached_before_wrapping_it_is_the_same_or_refused(name):
    model, batch = without_dropout(make("llama")), make_batch(LENGTHS)
    config, refusal = ADAPTERS[name]
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(1)
        tuned = wrap(model, config())
        if refusal:
            with pytest.raises(NoiseError, match=refusal):
                tuned(**batch)
        else:
            noisy = embedded(tuned, tuned.get_input_embeddings(), batch)
            assert torch.allclose(noisy, plain_noisy("llama"), atol=1e-5, rtol=1e-5)


def test_an_adapter_that_scales_its_table_gets_noise_that_is_not_scaled():
    """DoRA multiplies what its table gives by a trained magnitude: noise inside of it would be multiplied too."""
    tuned, batch = wrap(make("llama"), ADAPTERS["dora-table"][0]()), make_batch(LENGTHS)
    table = tuned.get_input_embeddings()
    with torch.no_grad():
        table.lora_magnitude_vector["default"].weight.mul_(3.0)
    clean = embedded(tuned, table, batch)
    with neftune.attach(tuned, ALPHA):
        noise = embedded(tuned, table, batch) - clean
    for row, length in enumerate(LENGTHS):
        bound = ALPHA / (length * WIDTH) ** 0.5
        assert 0.9 * bound < noise[row].abs().max() <= bound * 1.001


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["prompt", "p"])
def test_virtual_tokens_in_front_get_no_noise(name, family):
    tuned, batch = wrap(make(family), VIRTUAL_TOKENS[name][0]()), make_batch(LENGTHS)
    read: list[Tensor] = []

    def keep(_module: object, _args: object, kwargs: dict[str, Tensor]) -> None:
        read.append(kwargs["inputs_embeds"].detach().clone())

    hook = tuned.base_model.register_forward_pre_hook(keep, with_kwargs=True)
    with neftune.attach(tuned, ALPHA) as handle:
        handle.set_epoch(1)
        tuned(**batch).loss.backward()
        with handle.paused():
            tuned(**batch)
        assert handle.realised().num_tokens == sum(LENGTHS)
    hook.remove()
    noisy, clean = read
    assert torch.equal(noisy[:, :NUM_VIRTUAL], clean[:, :NUM_VIRTUAL])
    assert torch.equal(noisy[:, NUM_VIRTUAL:], plain_noisy(family))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_virtual_tokens_in_the_cache_do_not_count(family):
    tuned, batch = wrap(make(family), VIRTUAL_TOKENS["prefix"][0]()), make_batch(LENGTHS)
    with neftune.attach(tuned, ALPHA) as handle:
        handle.set_epoch(1)
        assert torch.equal(embedded(tuned, tuned.get_input_embeddings(), batch), plain_noisy(family))
        tuned(**batch).loss.backward()
        assert handle.realised().num_tokens == 2 * sum(LENGTHS)


@pytest.mark.parametrize("name", VIRTUAL_TOKENS)
def test_on_the_model_inside_virtual_tokens_are_refused(name):
    config, refusal = VIRTUAL_TOKENS[name]
    model = make("llama")
    with neftune.attach(model, ALPHA), pytest.raises(NoiseError, match=refusal):
        wrap(model, config())(**make_batch())


def test_prompt_tuning_of_an_encoder_decoder():
    tuned = wrap(make("t5"), PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=NUM_VIRTUAL))
    with neftune.attach(tuned, ALPHA) as handle:
        tuned(**make_batch(LENGTHS)).loss.backward()
        assert handle.realised().num_tokens == 2 * sum(LENGTHS)


def test_an_encoder_decoder_whose_wrapper_looks_up_another_table():
    """PEFT takes BART's own table instead of its encoder's, of which no encoder knows."""
    tuned = wrap(make("bart"), PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=NUM_VIRTUAL))
    with neftune.attach(tuned, ALPHA), pytest.raises(NoiseError, match=r"up in another table, name that one \(embedd"):
        tuned(**make_batch(LENGTHS))
    tables = [f"base_model.model.{name}" for name in ("shared", "decoder.embed_tokens")]
    with neftune.attach(tuned, ALPHA, embeddings=tables) as handle:
        tuned(**make_batch(LENGTHS)).loss.backward()
        assert handle.realised().num_tokens == 2 * sum(LENGTHS)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_frozen_table_whose_output_is_made_to_require_gradients(reentrant):
    """What gradient checkpointing with adapters asks of a model."""
    model = without_dropout(make("llama"))
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    tuned, batch = wrap(model, ADAPTERS["lora"][0]()), make_batch(LENGTHS)
    with neftune.attach(tuned, ALPHA) as handle:
        handle.set_epoch(1)
        tuned(**batch, use_cache=False).loss.backward()
        assert handle.realised().num_tokens == sum(LENGTHS)
    assert all(p.grad is not None for p in tuned.parameters() if p.requires_grad)
