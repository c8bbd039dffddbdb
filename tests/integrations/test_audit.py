"""The audit of a live trainer: it reads alpha off the trainer and leaves training as it is."""

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import neftune
from neftune.errors import ConfigError
from tests.tiny_families import make, make_batch

LENGTHS = (4, 9, 20, 33, 40, 6, 12, 25)


def trainer_of(folder, *, alpha: float | None = None, callback: TrainerCallback | None = None, **options) -> Trainer:
    batch = make_batch(LENGTHS)
    rows = [{name: value[i] for name, value in batch.items()} for i in range(len(LENGTHS))]
    settings = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", **options}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        learning_rate=1e-3,
        neftune_noise_alpha=alpha,
        dataloader_pin_memory=False,
        **settings,
    )
    callbacks = [callback] if callback else []
    return Trainer(model=make("gpt2"), args=arguments, train_dataset=rows, eval_dataset=rows[:4], callbacks=callbacks)


@pytest.mark.parametrize("noise", ["transformers", "neftune"])
def test_training_is_the_same_bit_for_bit_and_alpha_is_the_trainers(tmp_path, noise):
    def make_trainer() -> Trainer:
        if noise == "transformers":
            return trainer_of(tmp_path, alpha=7.0)
        return trainer_of(tmp_path, callback=neftune.NoiseCallback(7.0), eval_strategy="epoch")

    bare = make_trainer()
    bare.train()
    watched = make_trainer()
    with neftune.audit(watched) as audit:
        watched.train()
    assert audit.alpha == 7.0
    for one, other in zip(bare.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other)
    result = audit.result()
    assert result.find().num_documents == 2 * len(LENGTHS)
    assert result.is_exact == (noise == "neftune")
    if noise == "neftune":
        assert result.verdict.endswith("padding none; none in eval mode")
    else:
        assert result.find().mean == pytest.approx(sum((n / 40) ** 0.5 for n in LENGTHS) / len(LENGTHS), abs=0.03)
        assert result.verdict.endswith("padding is noised")


def test_a_trainer_without_noise_needs_a_nominal_alpha(tmp_path):
    trainer = trainer_of(tmp_path)
    with pytest.raises(ConfigError, match="needs the nominal alpha to compare with; Trainer names none"):
        neftune.audit(trainer)
    with neftune.audit(trainer, 5.0) as audit:
        trainer.train()
    assert audit.result().verdict == "documents get no noise at all (0.00 of alpha=5)"


def test_a_failure_inside_training_leaves_nothing_of_the_audit_behind(tmp_path):
    class Fails(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise KeyError("in the midst of training")

    trainer = trainer_of(tmp_path, callback=Fails())
    with pytest.raises(KeyError), neftune.audit(trainer, 5.0) as audit:
        trainer.train()
    assert audit.result().find().num_forwards == 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.model.modules())
