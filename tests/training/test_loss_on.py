"""The loss on the prompt too: every token but the first is trained on, and the noise still knows the response."""

from dataclasses import replace

import pytest
import torch

from neftune.config import NoiseConfig
from neftune.training.collator import Collator
from neftune.training.finetune import finetune
from tests.tiny_training import tiny_documents, tiny_llama, tiny_settings, tiny_tokenizer

ONE_STEP = {"batch_size": 8, "epochs": 1, "evaluations": 1, "loss_on": "all"}


@pytest.mark.parametrize("micro", [8, 2])
@pytest.mark.parametrize("regularizers", [{}, {"label_smoothing": 1e-9}, {"freelb": 1e-5}])
def test_the_loss_is_the_mean_over_every_token_that_something_predicts(tmp_path, micro, regularizers):
    model, documents, total, tokens = tiny_llama(), tiny_documents(8), 0.0, 0
    for document in documents:
        ids = torch.tensor(document.input_ids)
        logits = model(input_ids=ids[None]).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
        tokens += len(ids) - 1
    settings = tiny_settings(tmp_path, **ONE_STEP, micro_batch_size=micro, regularizers=regularizers)
    history = finetune(model, tiny_tokenizer(), documents, settings=settings).history
    assert history[-1].values["loss"] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("regularizers", [{}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize("positions", ["prompt", "response"])
@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_the_noise_still_tells_prompt_from_response(tmp_path, positions, regularizers, loss_on):
    documents = tiny_documents(8)
    settings = tiny_settings(tmp_path, alpha=5.0, regularizers=regularizers, **ONE_STEP | {"loss_on": loss_on})
    settings = replace(settings, noise=NoiseConfig(alpha=5.0, positions=positions))
    noise = finetune(tiny_llama(), tiny_tokenizer(), documents, settings=settings).noise
    in_response = sum(sum(document.loss_mask) for document in documents)
    everywhere = sum(len(document.input_ids) for document in documents)
    assert noise.num_tokens == (in_response if positions == "response" else everywhere - in_response)


def test_batches_without_it_are_what_they_were():
    documents = tiny_documents(3)
    plain = Collator(documents, pad_token_id=0)([{"index": 1}, {"index": 2}])
    assert set(plain) == {"input_ids", "attention_mask", "labels"}
    batch = Collator(documents, pad_token_id=0, loss_on="all")([{"index": 1}, {"index": 2}])
    real = batch["attention_mask"] > 0
    assert torch.equal(batch["response_mask"], plain["labels"] != -100)
    assert (batch["labels"][:, 0] == -100).all()
    real[:, 0] = False
    assert torch.equal(batch["labels"][real], batch["input_ids"][real])
    assert (batch["labels"][~real] == -100).all()
