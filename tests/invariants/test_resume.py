"""Killed and resumed equals uninterrupted, bit for bit: weights, history and realised noise."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from neftune.config import DataConfig, LoraConfig, ModelConfig
from neftune.training.checkpoints import CHECKPOINTS
from neftune.training.finetune import finetune
from neftune.training.models import load_model
from neftune.training.probes import Progress
from tests.tiny_training import assert_same_bits, tiny_documents, tiny_gpt2, tiny_settings, tiny_tokenizer, weights

NUM_STEPS = 15


def train(base: Path, folder: Path, *, adapter: str, alpha: float, checkpoints: int = 4, kill_at: int = 0) -> None:
    """What a killed process runs: one fine-tuning, whose outcome it writes into its folder."""
    torch.set_num_threads(1)
    config = ModelConfig.model_validate({"path": str(base), "adapter": adapter, "lora": LoraConfig(r=2, dropout=0.2)})
    loaded = load_model(config, DataConfig(max_length=64), seed=1)

    def probe() -> float:
        with torch.no_grad():
            return loaded.model(input_ids=torch.arange(3, 12)[None]).logits.logsumexp(-1).mean().item()

    def die(progress: Progress) -> None:
        if progress.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = tiny_settings(
        folder, alpha=alpha, epochs=3, micro_batch_size=2, checkpoints=checkpoints, probes={"clean_train_loss": probe}
    )
    result = finetune(loaded.model, loaded.tokenizer, tiny_documents(), settings=replace(settings, on_progress=die))
    torch.save(weights(loaded.model), folder / "weights.pt")
    noise = asdict(result.noise) if result.noise else None
    (folder / "outcome.json").write_text(json.dumps([[asdict(point) for point in result.history], noise]))


def start(*args: object, **kwargs: object) -> "multiprocessing.process.BaseProcess":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.invariants.test_resume", "trl.trainer.sft_trainer", "peft"])
    process = context.Process(target=train, args=args, kwargs=kwargs)
    process.start()
    return process


def finish(*args: object, **kwargs: object) -> None:
    process = start(*args, **kwargs)
    process.join()
    assert process.exitcode == 0


def killed(*args: object, **kwargs: object) -> None:
    process = start(*args, **kwargs)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def assert_same_outcome(left: Path, right: Path) -> None:
    assert_same_bits(*(torch.load(folder / "weights.pt", weights_only=True) for folder in (left, right)))
    assert json.loads((left / "outcome.json").read_text()) == json.loads((right / "outcome.json").read_text())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_gpt2(dropout=0.2).save_pretrained(str(folder))
    tiny_tokenizer().save_pretrained(str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("kill_at", [4, 6, 14])
def test_killed_at_a_step(base, tmp_path, adapter, kill_at):
    finish(base, tmp_path / "whole", adapter=adapter, alpha=5.0, checkpoints=0)
    killed(base, tmp_path / "killed", adapter=adapter, alpha=5.0, kill_at=kill_at)
    assert sorted(path.name for path in (tmp_path / "killed" / CHECKPOINTS).glob("checkpoint-*"))
    finish(base, tmp_path / "killed", adapter=adapter, alpha=5.0)
    assert_same_outcome(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_killed_at_random_moments_while_every_step_is_saved(base, tmp_path):
    finish(base, tmp_path / "whole", adapter="none", alpha=5.0, checkpoints=0)
    rng = random.Random(0)
    folder = tmp_path / "killed"
    kills = 0
    for _ in range(8):
        process = start(base, folder, adapter="none", alpha=5.0, checkpoints=NUM_STEPS - 1)
        while process.is_alive() and not (folder / CHECKPOINTS).exists():
            time.sleep(0.001)
        process.join(rng.uniform(0.02, 0.4))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
    assert kills
    finish(base, folder, adapter="none", alpha=5.0, checkpoints=NUM_STEPS - 1)
    assert_same_outcome(tmp_path / "whole", folder)
