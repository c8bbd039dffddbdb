"""What a training of transformers' Trainer may hold besides plain steps: none of it moves the noise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback

import neftune
from neftune.noise.hooks import Hook
from tests.integrations.test_transformers import Breaks, arguments, collate, make_trainer, rows, same, weights
from tests.tiny_families import make, make_batch, without_dropout
from tests.witness import Witness

RECOMPUTED = {
    "not": {},
    "per layer": {"activation_checkpointing_kwargs": {"use_reentrant": False}},
    "per layer, reentrant": {"activation_checkpointing_kwargs": {"use_reentrant": True}},
}


def losses(trainer: Trainer) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def is_clean(model: nn.Module) -> bool:
    """Whether no hook of ours is left; transformers leaves one of its own on embeddings for recomputation."""
    hooks = [[*m._forward_hooks.values(), *m._forward_pre_hooks.values()] for m in model.modules()]
    return not any(isinstance(hook, Hook) for those in hooks for hook in those)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16 autocast"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_recomputation_autocast_and_accumulation_leave_the_noise_alone(tmp_path, family, bf16, accumulation):
    seen = {}
    for name, options in RECOMPUTED.items():
        noise = neftune.NoiseCallback(20.0)
        model = without_dropout(make(family))
        sizes = {"per_device_train_batch_size": 6 // accumulation, "gradient_accumulation_steps": accumulation}
        trainer = make_trainer(
            tmp_path, noise, model=model, bf16=bf16, activation_checkpointing=bool(options), **sizes, **options
        )
        trainer.train()
        seen[name] = (losses(trainer), noise.realised())
        assert is_clean(trainer.model)
    expected, realised = seen["not"]
    assert realised.alpha_mean == pytest.approx(20.0, rel=0.02)
    for name in ("per layer", "per layer, reentrant"):
        assert seen[name][0] == pytest.approx(expected, rel=1e-2 if bf16 else 1e-5), name
        assert seen[name][1].num_tokens == realised.num_tokens, name
        assert seen[name][1].alpha_mean == pytest.approx(realised.alpha_mean, rel=1e-6), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_model_of_any_dtype_is_noised_to_the_bit(tmp_path, dtype):
    witness = Witness(20.0)
    model = without_dropout(make("llama")).to(dtype)
    make_trainer(tmp_path, neftune.NoiseCallback(20.0), witness, model=model, learning_rate=1e-4).train()
    assert len(witness.noised) == 8


class Generates(TrainerCallback):
    """Generates after each step, in the middle of training mode."""

    def __init__(self) -> None:
        self.answers: list[torch.Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert kwargs["model"].training
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        self.answers.append(kwargs["model"].generate(torch.tensor([[3, 4, 5]]), **options))


def test_generation_between_steps_is_the_models_without_noise(tmp_path):
    generates, witness = Generates(), Witness(200.0)
    trainer = make_trainer(tmp_path, neftune.NoiseCallback(200.0), witness, generates, learning_rate=0.0)
    trainer.train()
    expected = trainer.model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert len(generates.answers) == 8
    assert all(torch.equal(answer, expected) for answer in generates.answers)
    assert witness.generations


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_evaluates_by_generating(tmp_path, family):
    model = without_dropout(make(family))
    settings = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        predict_with_generate=True,
        generation_max_length=8,
        eval_strategy="steps",
        eval_steps=2,
        num_train_epochs=2,
        per_device_train_batch_size=3,
        learning_rate=0.0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    noise = neftune.NoiseCallback(50.0)
    answers = []

    def metrics(prediction: Any) -> dict[str, float]:
        answers.append(prediction.predictions)
        return {"longest": float(prediction.predictions.shape[1])}

    trainer = Seq2SeqTrainer(
        model,
        settings,
        train_dataset=Dataset.from_list(rows()),
        eval_dataset=Dataset.from_list(rows()),
        data_collator=collate,
        callbacks=[noise],
        compute_metrics=metrics,
    )
    clean = trainer.evaluate()["eval_loss"]
    trainer.train()
    seen = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert seen == pytest.approx([clean] * len(seen), abs=1e-6)
    assert len(answers) == len(seen) + 1 == 5
    assert all((answer == answers[0]).all() for answer in answers)
    assert noise.realised().num_documents == 2 * 12 * 2, "both stacks"


def test_two_trainers_one_after_the_other_on_one_model(tmp_path):
    model = without_dropout(make("llama"))
    for alpha in (5.0, 15.0):
        noise, witness = neftune.NoiseCallback(alpha), Witness(alpha)
        make_trainer(tmp_path, noise, witness, model=model).train()
        assert noise.realised().alpha_mean == pytest.approx(alpha, rel=0.02)
        assert is_clean(model)


def test_one_callback_in_two_trainers_one_after_the_other(tmp_path):
    noise = neftune.NoiseCallback(5.0)
    for _ in range(2):
        trainer = make_trainer(tmp_path, noise)
        trainer.train()
        assert noise.realised().num_documents == 24, "the second counts from zero"


def test_training_twice_goes_on_from_the_weights_with_the_same_noise(tmp_path):
    noise, witness = neftune.NoiseCallback(5.0), Witness(5.0)
    trainer = make_trainer(tmp_path, noise, witness)
    trainer.train()
    trainer.train()
    assert len(witness.noised) == 16
    assert noise.realised().num_documents == 24


def test_a_batch_size_that_does_not_fit_is_halved_with_one_noise(tmp_path):
    class Small(Trainer):
        def training_step(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any) -> torch.Tensor:
            loss = super().training_step(model, inputs, *args)
            if len(inputs["input_ids"]) > 3:
                raise RuntimeError("CUDA out of memory.")
            return loss

    noise = neftune.NoiseCallback(5.0)
    trainer = make_trainer(tmp_path, noise, per_device_train_batch_size=6, auto_find_batch_size=True)
    trainer.__class__ = Small
    trainer.train()
    assert noise.realised().alpha_mean == pytest.approx(5.0, rel=0.02)
    assert noise.realised().num_documents == 24
    assert is_clean(trainer.model)


def test_a_model_that_is_made_when_training_begins(tmp_path):
    noise = neftune.NoiseCallback(5.0)
    trainer = Trainer(
        model_init=lambda: without_dropout(make("llama")),
        args=arguments(tmp_path),
        train_dataset=Dataset.from_list(rows()),
        data_collator=collate,
        callbacks=[noise],
    )
    first = trainer.model
    trainer.train()
    assert trainer.model is not first
    assert noise.realised().num_documents == 24
    assert is_clean(trainer.model)


def test_checkpoints_hold_the_model_and_nothing_of_the_noise(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 8, "learning_rate": 0.0}
    for folder, callbacks in {"bare": [], "noised": [neftune.NoiseCallback(5.0)]}.items():
        make_trainer(tmp_path / folder, *callbacks, **options).train()
    bare, noised = (Path(tmp_path, folder, "checkpoint-8") for folder in ("bare", "noised"))
    assert {path.name for path in bare.iterdir()} == {path.name for path in noised.iterdir()}
    assert (bare / "model.safetensors").read_bytes() == (noised / "model.safetensors").read_bytes()


class TestCompiled:
    """``torch_compile=True`` in the training arguments; what the compiler makes of the graph does not matter here."""

    def trainer(self, folder: Path, *callbacks: TrainerCallback, **options: Any) -> Trainer:
        options = {"torch_compile": True, "torch_compile_backend": "eager", "logging_steps": 1, **options}
        return make_trainer(folder, *callbacks, **options)

    def test_it_trains_as_without_the_compiler(self, tmp_path):
        noise, plain = neftune.NoiseCallback(20.0, schedule="linear"), neftune.NoiseCallback(20.0, schedule="linear")
        compiled = self.trainer(tmp_path, noise)
        compiled.train()
        eager = make_trainer(tmp_path, plain, logging_steps=1)
        eager.train()
        assert losses(compiled) == pytest.approx(losses(eager), rel=1e-4)
        assert noise.realised() == plain.realised()

    def test_evaluation_inside_and_after_is_clean(self, tmp_path):
        trainer = self.trainer(tmp_path, neftune.NoiseCallback(100.0), learning_rate=0.0, eval_strategy="epoch")
        trainer.train()
        seen = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
        clean = make_trainer(tmp_path, learning_rate=0.0).evaluate()["eval_loss"]
        assert [*seen, trainer.evaluate()["eval_loss"]] == pytest.approx([clean] * 3, abs=1e-5)

    def test_after_an_exception_the_compiled_model_is_clean_and_can_be_trained_again(self, tmp_path):
        noise = neftune.NoiseCallback(100.0)
        trainer = self.trainer(tmp_path, noise, Breaks(2), learning_rate=0.0)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        compiled, batch = trainer.model_wrapped.train(), make_batch()
        clean = without_dropout(make("llama"))(**batch).loss
        for _ in range(2):
            torch.testing.assert_close(compiled(**batch).loss, clean)
        trainer.pop_callback(Breaks)
        trainer.train()
        assert noise.realised().num_documents == 24
        assert is_clean(trainer.model)


def test_the_baseline_with_recomputation_and_autocast_equals_no_callback(tmp_path):
    options = {"bf16": True, "activation_checkpointing": True, "gradient_accumulation_steps": 2}
    trained = []
    for callbacks in ([], [neftune.NoiseCallback(0.0)]):
        trainer = make_trainer(tmp_path, *callbacks, model=make("gpt2"), **options)
        trainer.train()
        trained.append(weights(trainer))
    assert same(*trained)
