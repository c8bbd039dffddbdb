"""Quantised models get the noise of the model that they were: real bitsandbytes and torchao, on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn

import neftune
from tests.tiny_families import make, make_batch, without_dropout

pytest.importorskip("bitsandbytes")
pytest.importorskip("torchao")

ALPHA, LENGTHS = 5.0, (30, 8)

# What PEFT and transformers themselves call.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*use_reentrant parameter should be passed explicitly:UserWarning"),
]


def load_in(folder: Path, **options: Any) -> nn.Module:
    """The tiny Llama, quantised while it is loaded."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make("llama").save_pretrained(folder)
    config = BitsAndBytesConfig(**options)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")


def by_torchao(folder: Path, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """The tiny Llama with int8 weights in modules of these kinds."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = make("llama")
    quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda module, _name: isinstance(module, kinds))
    return model


def with_int8_table(folder: Path) -> nn.Module:
    """The tiny Llama with bitsandbytes' 8-bit table."""
    import bitsandbytes

    model = make("llama")
    old = model.get_input_embeddings()
    table = bitsandbytes.nn.Embedding8bit(old.num_embeddings, old.embedding_dim)
    table.load_state_dict(old.state_dict())
    model.set_input_embeddings(table.to("cpu"))
    return model


QUANTISED: dict[str, Callable[[Path], nn.Module]] = {
    "bitsandbytes-int8": lambda folder: load_in(folder, load_in_8bit=True),
    "bitsandbytes-nf4": lambda folder: load_in(
        folder, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    ),
    "bitsandbytes-int8-table": with_int8_table,
    "torchao-int8": lambda folder: by_torchao(folder, (nn.Linear,)),
    "torchao-int8-table": lambda folder: by_torchao(folder, (nn.Linear, nn.Embedding)),
}


def noise_in(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    seen: list[Tensor] = []
    hook = None
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(1)
        table = model.get_input_embeddings()
        hook = table.register_forward_hook(lambda _m, _a, output: seen.append(output.detach().clone()))
        model(**batch)
        with handle.paused():
            model(**batch)
        hook.remove()
        assert handle.realised().num_tokens == sum(LENGTHS)
    return seen[0] - seen[1]


@pytest.fixture(params=QUANTISED)
def quantised(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    """A quantised model in training mode."""
    return without_dropout(QUANTISED[request.param](tmp_path)).train()


def test_the_noise_is_that_of_the_model_before(quantised):
    batch = make_batch(LENGTHS)
    noise, before = noise_in(quantised, batch), noise_in(without_dropout(make("llama")), batch)
    assert torch.allclose(noise, before, atol=1e-5)
    assert not noise[batch["attention_mask"] == 0].any()


def test_the_ratio_is_that_of_the_model_before(quantised):
    ratio = neftune.noise_to_signal(quantised, ALPHA, length=20)
    assert ratio == pytest.approx(neftune.noise_to_signal(make("llama"), ALPHA, length=20), rel=0.01)


@pytest.mark.parametrize("name", ["bitsandbytes-int8", "bitsandbytes-nf4"])
def test_adapters_train_on_it(name, tmp_path):
    model = prepare_model_for_kbit_training(QUANTISED[name](tmp_path))
    tuned = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).train()
    with neftune.attach(tuned, ALPHA) as handle:
        tuned(**make_batch(LENGTHS), use_cache=False).loss.backward()
        assert handle.realised().num_tokens == sum(LENGTHS)
    gradients = [parameter.grad for parameter in tuned.parameters() if parameter.requires_grad]
    assert gradients
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_a_four_bit_table_of_a_plain_module():
    import bitsandbytes

    torch.manual_seed(0)
    old = nn.Embedding(97, 64)
    table = bitsandbytes.nn.EmbeddingNF4(97, 64)
    table.weight = bitsandbytes.nn.Params4bit(old.weight.detach(), requires_grad=False, quant_type="nf4")
    model = nn.Sequential(table.to("cpu"))
    assert table.weight.shape[1] == 1, "two codes a byte, in a column"
    with neftune.attach(model, ALPHA, embeddings="0") as handle:
        handle.set_epoch(0)
        ids = torch.arange(30)[None]
        noisy = model(ids)
        with handle.paused():
            noise = noisy - model(ids)
    bound = ALPHA / (30 * 64) ** 0.5
    assert 0.9 * bound < noise.abs().max() <= bound * 1.001
