"""The callback in TRL's DPOTrainer and KTOTrainer: a noised policy beside a clean reference."""

import math
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import neftune
from tests.tiny import make_checkpoint
from tests.tiny_trl import load_model, make_trainer, preferences
from tests.witness import Witness

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

STILL = {"learning_rate": 0.0, "num_train_epochs": 1, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model"), width=16)


class LogProbs(TrainerCallback):
    """Keeps the log-probabilities that each of a trainer's models gives while it trains, in their order."""

    def __init__(self) -> None:
        self.policy: list[torch.Tensor] = []
        self.reference: list[torch.Tensor] = []

    def watch(self, trainer: Any) -> None:
        """Follow the model, and the separate reference where there is one."""
        trainer.model.register_forward_hook(lambda _model, _args, output: self._keep(output))
        if trainer.ref_model is not None:
            trainer.ref_model.register_forward_hook(lambda _model, _args, output: self._keep(output))

    def _keep(self, output: Any) -> None:
        log_probs = self.policy if torch.is_grad_enabled() else self.reference
        log_probs.append(output.log_probs.detach().clone())


def reference_options(kind: str, checkpoint) -> dict[str, Any]:
    if kind == "separate":
        return {}
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=2, task_type="CAUSAL_LM")
    if kind == "adapter":
        return {"peft_config": config}
    # A trained adapter goes on training beside a frozen copy of itself.
    model = get_peft_model(load_model(checkpoint), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return {"model": model}


def log_probs(checkpoint, folder, alpha: float | None, reference: str, name: str = "DPO") -> LogProbs:
    kept = LogProbs()
    callbacks = [] if alpha is None else [neftune.NoiseCallback(alpha)]
    given = reference_options(reference, checkpoint)
    trainer = make_trainer(name, checkpoint, folder, callbacks, given=given, **STILL)
    kept.watch(trainer)
    trainer.train()
    return kept


@pytest.mark.parametrize("name", ["DPO", "KTO"])
@pytest.mark.parametrize("reference", ["separate", "adapter", "trained adapter"])
def test_the_references_log_probabilities_are_those_of_a_model_without_noise(checkpoint, tmp_path, name, reference):
    clean = log_probs(checkpoint, tmp_path, None, reference, name)
    noisy = log_probs(checkpoint, tmp_path, 5.0, reference, name)
    assert len(clean.reference) >= 2
    assert all(torch.equal(a, b) for a, b in zip(clean.reference, noisy.reference, strict=True))
    for clean_policy, noisy_policy in zip(clean.policy, noisy.policy, strict=True):
        moved = (clean_policy - noisy_policy).abs().sum(dim=-1)
        assert (moved > 1e-3).all(), "chosen and rejected alike, in every row"


@pytest.mark.parametrize("reference", ["separate", "adapter"])
def test_the_loss_at_alpha_and_learning_rate_zero_is_log_two_and_noise_moves_it(checkpoint, tmp_path, reference):
    losses = {}
    for alpha in (0.0, 5.0):
        given = reference_options(reference, checkpoint)
        trainer = make_trainer("DPO", checkpoint, tmp_path, [neftune.NoiseCallback(alpha)], given=given, **STILL)
        trainer.train()
        losses[alpha] = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[0.0] == pytest.approx([math.log(2)] * 2, abs=1e-6)
    assert all(abs(loss - math.log(2)) > 1e-4 for loss in losses[5.0])


OPTIONS = {
    "padding_free": {"padding_free": True},
    "recomputed": {"gradient_checkpointing": True},
    "recomputed reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    "references before": {"precompute_ref_log_probs": True},
    "padded to a multiple": {"pad_to_multiple_of": 16},
    "cut": {"max_length": 12},
    "length desensitised": {"ld_alpha": 0.5},
    "several losses": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    "weighted": {"use_weighting": True},
    "reference follows": {"sync_ref_model": True, "ref_model_sync_steps": 1},
}


@pytest.mark.parametrize("mode", OPTIONS)
def test_chosen_and_rejected_are_noised_each_by_its_own_length(checkpoint, tmp_path, mode):
    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    make_trainer("DPO", checkpoint, tmp_path, [noise, witness], **OPTIONS[mode]).train()
    assert {len(seen.lengths) for seen in witness.noised} == {2 if mode == "accumulated" else 8}
    seen = witness.noised[0]
    half = len(seen.lengths) // 2
    assert seen.documents[:half] != seen.documents[half:], "the answers differ"
    assert noise.realised().num_documents == 32
    assert max(length for seen in witness.noised for length in seen.lengths) == (12 if mode == "cut" else 19)


def test_answers_alone_are_noised(checkpoint, tmp_path):
    tokens = {}
    for positions in ("all", "prompt", "response"):
        noise = neftune.NoiseCallback(20.0, positions=positions)
        make_trainer("DPO", checkpoint, tmp_path, [noise], **STILL).train()
        tokens[positions] = noise.realised().num_tokens
    rows = preferences()
    assert tokens["response"] == sum(len(row[name].split()) + 1 for row in rows for name in ("chosen", "rejected"))
    assert tokens["prompt"] == 2 * sum(len(row["prompt"].split()) for row in rows)
    assert tokens["all"] == tokens["prompt"] + tokens["response"]


def test_the_kl_term_of_kto_is_clean(checkpoint, tmp_path):
    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    make_trainer("KTO", checkpoint, tmp_path, [noise, witness]).train()
    assert len(witness.clean) == len(witness.noised) > 0


def test_evaluation_inside_training_is_clean(checkpoint, tmp_path):
    from datasets import Dataset

    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    options = {**STILL, "eval_strategy": "steps", "eval_steps": 1}
    given = {"eval_dataset": Dataset.from_list(preferences())}
    trainer = make_trainer("DPO", checkpoint, tmp_path, [noise, witness], given=given, **options)
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert losses == pytest.approx([math.log(2)] * 2, abs=1e-6)
