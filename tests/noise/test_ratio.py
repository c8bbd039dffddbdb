import math

import pytest
import torch

import neftune
from neftune.errors import ConfigError, NoiseError
from tests.tiny_families import WIDTH, make, make_batch, without_dropout


@pytest.mark.parametrize("family", ["llama", "gemma", "bart"])
def test_it_is_what_the_meter_measures(family):
    model = without_dropout(make(family))
    table = model.get_encoder().embed_tokens if family == "bart" else model.get_input_embeddings()
    with torch.no_grad():
        table.weight.normal_(0, 0.3)
        table.weight[: table.weight.shape[0] // 2] *= 1.5
    batch = make_batch((40, 10, 25))
    stack = model.get_encoder() if family == "bart" else model
    with neftune.attach(model, 5.0) as handle:
        for epoch in range(20):
            handle.set_epoch(epoch)
            stack(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        realised = handle.realised()
    asked = neftune.noise_to_signal(model, 5.0, length=25.0)
    assert realised.noise_to_embedding == pytest.approx(asked, rel=0.08), "the batch's tokens are a sample of the table"


def test_formula():
    model = make("llama")
    rms = model.get_input_embeddings().weight.square().mean().sqrt().item()
    expected = 5 / math.sqrt(3 * 22 * WIDTH) / rms
    assert neftune.noise_to_signal(model, 5, length=22) == pytest.approx(expected, rel=1e-6)
    raw = neftune.noise_to_signal(model, 5, length=22, distribution="gaussian", match="paper")
    assert raw == pytest.approx(expected * math.sqrt(3), rel=1e-6)


def test_alpha_for_inverts_it():
    model = make("llama")
    for nsr in (0, 0.3, 1.0):
        alpha = neftune.alpha_for(model, nsr=nsr, length=22.5)
        assert neftune.noise_to_signal(model, alpha, length=22.5) == pytest.approx(nsr)


@pytest.mark.parametrize("length", [0, -1, float("nan"), float("inf"), "22"])
def test_length_must_be_positive(length):
    with pytest.raises(ConfigError, match="length must be a finite number of tokens > 0, got "):
        neftune.noise_to_signal(make("llama"), 5, length=length)


@pytest.mark.parametrize("nsr", [-0.1, float("nan"), "1"])
def test_nsr_must_not_be_negative(nsr):
    with pytest.raises(ConfigError, match="nsr must be a finite number >= 0, got "):
        neftune.alpha_for(make("llama"), nsr=nsr, length=22)


def test_a_table_of_zeros_has_no_ratio():
    model = make("llama")
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    with pytest.raises(NoiseError, match="must have a positive, finite RMS, got 0"):
        neftune.noise_to_signal(model, 5, length=22)


@pytest.mark.parametrize(("checkpoint", "std"), [("stories260k", 0.308), ("babyllama-tok105-0.9m", 0.134)])
def test_bundled_checkpoints(shared, checkpoint, std):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(shared / "models" / checkpoint)
    width = model.get_input_embeddings().weight.shape[1]
    ratio = neftune.noise_to_signal(model, 5, length=100)
    assert ratio == pytest.approx(5 / math.sqrt(300 * width) / std, rel=0.01)
