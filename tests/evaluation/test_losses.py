"""Clean loss per document."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from neftune.errors import DataError, ModelError
from neftune.evaluation.losses import evaluation_mode, example_losses
from neftune.noise.attach import attach
from neftune.records import Document
from tests.reference.metric_greedy import slow_loss
from tests.tiny_training import tiny_documents, tiny_gpt2, tiny_llama


@pytest.mark.parametrize("make", [lambda: tiny_llama(initializer_range=0.5), tiny_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_losses_are_the_slow_ones_for_every_batch_size(make, batch_size):
    model, documents = make().eval(), tiny_documents()
    losses = example_losses(model, documents, batch_size=batch_size)
    slow = [slow_loss(model, one.input_ids, one.loss_mask) for one in documents]
    assert losses == pytest.approx(slow, abs=1e-5)


def test_only_marked_tokens_count():
    model = tiny_llama(initializer_range=0.5).eval()
    ids = (1, 5, 6, 7, 8, 2)
    gap = Document("gap", ids, (False, True, False, False, True, True))
    unpredictable = Document("first", ids, (True, True, False, False, True, True))
    assert example_losses(model, [gap, unpredictable]) == pytest.approx([slow_loss(model, ids, gap.loss_mask)] * 2)


def test_a_model_without_logits_to_keep_gives_the_same():
    model, documents = tiny_llama().eval(), tiny_documents(5)
    wanted = example_losses(model, documents)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config, self.device = model, model.config, model.device

        def forward(self, input_ids, attention_mask, use_cache):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    assert example_losses(Plain(), documents) == pytest.approx(wanted, abs=1e-6)


def test_noise_and_dropout_are_off_and_the_mode_is_put_back():
    model, documents = tiny_gpt2(dropout=0.5), tiny_documents(4)
    clean = example_losses(model.eval(), documents)
    model.train()
    model.transformer.h[0].eval()
    with attach(model, alpha=100.0):
        assert example_losses(model, documents) == clean
    assert model.training
    assert model.transformer.h[1].training
    assert not model.transformer.h[0].training


def test_the_mode_is_put_back_after_an_exception():
    model = tiny_llama().train()
    with pytest.raises(IndexError):
        example_losses(model, [Document("off", (1, 10_000, 2), (False, True, True))])
    assert model.training
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        raise RuntimeError("inside")
    assert all(module.training for module in model.modules())


def test_nan_losses_are_reported_as_they_are():
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    assert all(math.isnan(loss) for loss in example_losses(model, tiny_documents(3)))


def test_what_cannot_be_measured_is_refused():
    model, [document] = tiny_llama(), tiny_documents(1)
    with pytest.raises(DataError, match="at least one document, got none"):
        example_losses(model, [])
    with pytest.raises(DataError, match="got none in example 0"):
        example_losses(model, [replace(document, loss_mask=(True,) + (False,) * (len(document.input_ids) - 1))])
    with pytest.raises(DataError, match="batch_size must be >= 1, got 0"):
        example_losses(model, [document], batch_size=0)
    model.config.is_encoder_decoder = True
    with pytest.raises(ModelError, match="causal language model, got the encoder-decoder"):
        example_losses(model, [document])
