"""The callback in TRL's SFTTrainer: padded, padding-free, packed, accumulated, recomputed, resumed."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset

import neftune
from neftune.errors import ConfigError
from tests.tiny import make_checkpoint
from tests.tiny_trl import completions, make_trainer
from tests.witness import Witness

NUM_EXAMPLES = 12
LENGTHS = [5 + (7 * i) % 19 for i in range(NUM_EXAMPLES)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def train(checkpoint: Path, folder: Path, noise: neftune.NoiseCallback, *, resume: str | None = None, **options):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(3, 26, (length,), generator=generator).tolist()} for length in LENGTHS]
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "max_length": None,
        "dataloader_pin_memory": False,
    }
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(checkpoint),
        SFTConfig(**{**settings, **options}),  # pyright: ignore[reportArgumentType]
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
        callbacks=[noise],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_every_batch_layout_trains_alike_with_the_same_realised_noise(checkpoint, tmp_path):
    padded = neftune.NoiseCallback(20.0)
    expected = losses(train(checkpoint, tmp_path, padded))
    assert padded.realised().alpha_mean == pytest.approx(20.0, rel=0.03)
    assert padded.realised().num_tokens == 2 * sum(LENGTHS)
    layouts = {
        "padding-free": {"padding_free": True},
        "split": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        "recomputed": {"gradient_checkpointing": True},
        "recomputed reentrant": {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": True},
        },
    }
    for name, options in layouts.items():
        noise = neftune.NoiseCallback(20.0)
        assert losses(train(checkpoint, tmp_path, noise, **options)) == pytest.approx(expected, rel=1e-3), name
        assert noise.realised().alpha_mean == pytest.approx(padded.realised().alpha_mean, rel=1e-6), name
        assert noise.realised().alpha_min == pytest.approx(padded.realised().alpha_min, rel=1e-6), name
    clean = losses(train(checkpoint, tmp_path, neftune.NoiseCallback(0.0)))
    assert clean != pytest.approx(expected, rel=1e-3)


def test_packing_noises_each_document_by_its_own_length(checkpoint, tmp_path):
    noise = neftune.NoiseCallback(20.0)
    trainer = train(checkpoint, tmp_path, noise, packing=True, max_length=64, per_device_train_batch_size=2)
    realised = noise.realised()
    assert (realised.num_documents, realised.num_tokens) == (2 * NUM_EXAMPLES, 2 * sum(LENGTHS))
    assert realised.alpha_mean == pytest.approx(20.0, rel=0.03)
    assert realised.alpha_min > 16
    assert trainer.state.log_history[0]["noise_alpha"] == pytest.approx(20.0, rel=0.1)


LAYOUTS = {
    "padded": {},
    "padded to a multiple": {"pad_to_multiple_of": 16},
    "padding-free": {"padding_free": True, "max_length": None},
    "padding-free, padded to a multiple": {"padding_free": True, "max_length": None, "pad_to_multiple_of": 16},
    "bfd, padded to a multiple": {"packing": True, "max_length": 40, "pad_to_multiple_of": 16},
    "bfd": {"packing": True, "max_length": 40, "per_device_train_batch_size": 2},
    "bfd, cut": {"packing": True, "max_length": 14, "per_device_train_batch_size": 2},
    "bfd_split": {"packing": True, "packing_strategy": "bfd_split", "max_length": 14},
    "answers alone": {"completion_only_loss": True},
    "cut": {"max_length": 14},
    "recomputed": {"gradient_checkpointing": True},
    "recomputed reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    "logits": {"loss_type": "dft"},
    "grouped by length": {"train_sampling_strategy": "group_by_length"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_noise_is_exact_in_every_layout(checkpoint, tmp_path, layout):
    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    make_trainer("SFT", checkpoint, tmp_path, [noise, witness], **LAYOUTS[layout]).train()
    lengths = [length for seen in witness.noised for length in seen.lengths]
    assert len(set(lengths)) > 1
    assert max(lengths) <= (14 if LAYOUTS[layout].get("max_length") == 14 else 19)
    realised = noise.realised()
    assert (realised.num_documents, realised.num_tokens) == (len(lengths), sum(lengths))


@pytest.mark.parametrize("layout", ["padded", "padding-free", "bfd"])
def test_answers_alone_are_noised_in_every_layout(checkpoint, tmp_path, layout):
    tokens = {}
    for positions in ("all", "prompt", "response"):
        noise = neftune.NoiseCallback(20.0, positions=positions)
        trainer = make_trainer("SFT", checkpoint, tmp_path, [noise], completion_only_loss=True, **LAYOUTS[layout])
        trainer.train()
        tokens[positions] = noise.realised().num_tokens
    answers = 2 * sum(len(row["completion"].split()) + 1 for row in completions())
    assert tokens["response"] == answers
    assert tokens["prompt"] == tokens["all"] - answers


def test_packing_without_boundaries_is_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"packed rows that say where documents begin.*packing_strategy='wrapped'"):
        make_trainer(
            "SFT", checkpoint, tmp_path, [neftune.NoiseCallback(5.0)], packing=True, packing_strategy="wrapped"
        )


def test_evaluation_inside_training_is_clean(checkpoint, tmp_path):
    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    options = {"learning_rate": 0.0, "eval_strategy": "steps", "eval_steps": 1}
    given = {"eval_dataset": Dataset.from_list(completions())}
    trainer = make_trainer("SFT", checkpoint, tmp_path, [noise, witness], given=given, **options)
    clean = trainer.evaluate()["eval_loss"]
    trainer.train()
    seen = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert seen == pytest.approx([clean] * len(seen), abs=1e-6)
    assert witness.clean


def test_mixed_precision(checkpoint, tmp_path):
    noise = neftune.NoiseCallback(5.0)
    train(checkpoint, tmp_path, noise, bf16=True)
    assert noise.realised().alpha_mean == pytest.approx(5.0, rel=0.03)


def test_lora_with_recomputation(checkpoint, tmp_path):
    from peft import LoraConfig

    noise = neftune.NoiseCallback(5.0)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": list(range(3, 3 + length))} for length in LENGTHS]
    config = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(checkpoint),
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
        peft_config=LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
        callbacks=[noise],
    )
    trainer.train()
    assert noise.realised().num_documents == NUM_EXAMPLES


def test_resumed_in_mid_epoch_equals_uninterrupted(checkpoint, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1}
    whole = train(checkpoint, tmp_path, neftune.NoiseCallback(20.0), **options)
    for step in (2, 3, 4):
        noise = neftune.NoiseCallback(20.0)
        folder = str(tmp_path / f"checkpoint-{step}")
        resumed = train(checkpoint, tmp_path / "resumed", noise, resume=folder, **options)
        assert losses(resumed) == losses(whole)
        for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(one, other)
