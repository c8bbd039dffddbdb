"""Every registered optimiser trains, repeats to the bit and goes on where it broke off; schedules are what they say."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neftune.config import TrainConfig
from neftune.errors import ConfigError, MissingExtraError, UnknownNameError
from neftune.training.finetune import FinetuneSettings, finetune
from neftune.training.optimizers import check_optimizer, optimizers
from neftune.training.probes import Progress
from tests.tiny_training import assert_same_bits, tiny_documents, tiny_llama, tiny_settings, tiny_tokenizer, weights

RATES = {"lion": 1e-3}
"""Learning rates other than 1e-2."""


def settings_for(name: str, folder: Path, **options: Any) -> FinetuneSettings:
    own = {"schedule": "constant"} if optimizers[name].schedules_itself else {}
    common = {"optimizer": name, "learning_rate": RATES.get(name, 1e-2), "weight_decay": 0.1, "alpha": 5.0}
    return tiny_settings(folder, **common | own | options)


@pytest.fixture(autouse=True)
def _libraries() -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("schedulefree")


class BrokenError(Exception):
    pass


def break_off(progress: Progress) -> None:
    if progress.step == 5:
        raise BrokenError


@pytest.mark.parametrize("name", optimizers)
def test_trains_and_goes_on_where_it_broke_off(name, tmp_path):
    def once(folder: Path, **more: Any):
        model = tiny_llama()
        settings = replace(settings_for(name, folder, epochs=4, checkpoints=4), **more)
        return weights(model), finetune(model, tiny_tokenizer(), tiny_documents(8), settings=settings), weights(model)

    before, result, whole = once(tmp_path / "whole")
    assert result.history[-1].values["loss"] < result.history[1].values["loss"]
    assert any(not torch.equal(value, whole[key]) for key, value in before.items())
    with pytest.raises(BrokenError):
        once(tmp_path / "broken", on_progress=break_off)
    assert list((tmp_path / "broken").rglob("checkpoint-*"))
    _, resumed, again = once(tmp_path / "broken")
    assert_same_bits(whole, again)
    assert resumed.history == result.history


@pytest.mark.parametrize("name", optimizers)
def test_is_another_optimiser_than_adamw(name, tmp_path):
    made: list[str] = []
    real = torch.optim.Optimizer.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(type(self).__name__)
        real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Optimizer, "__init__", init)
        finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(8), settings=settings_for(name, tmp_path, epochs=1))
    names = {"lion": "Lion", "adafactor": "Adafactor", "schedule_free_adamw": "AdamWScheduleFree"}
    assert made[0] == names.get(name, "AdamW")


def test_8_bit_states_are_8_bit(tmp_path, monkeypatch):
    """Tables keep 32 bits, and so do tensors under 4,096 numbers."""
    from bitsandbytes.optim import AdamW

    kinds: dict[torch.Size, torch.dtype] = {}
    real = AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        kinds.update({one.shape: state["state1"].dtype for one, state in self.state.items()})
        return result

    monkeypatch.setattr(AdamW, "step", step)
    model = tiny_llama(hidden_size=64, intermediate_size=128, vocab_size=80)
    settings = settings_for("adamw_8bit", tmp_path, epochs=1)
    finetune(model, tiny_tokenizer(), tiny_documents(8), settings=settings)
    assert kinds[torch.Size([128, 64])] == torch.uint8
    assert kinds[torch.Size([64])] == torch.float32
    assert kinds[model.lm_head.weight.shape] == torch.float32


def test_what_bitsandbytes_notes_of_one_run_is_forgotten_before_the_next(tmp_path):
    from bitsandbytes.optim import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    manager.module_weight_config_triple.append((torch.nn.Embedding(2, 2), "weight", {"optim_bits": 32}))
    finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(8), settings=settings_for("adamw_8bit", tmp_path, epochs=1))
    assert not manager.module_weight_config_triple
    assert not manager.pid2config


def test_schedule_free_hands_over_and_probes_its_average(tmp_path):
    model = tiny_llama()
    name = "model.layers.0.self_attn.q_proj.weight"
    probed: list[torch.Tensor] = []
    trained: list[torch.Tensor] = []

    def probe() -> float:
        probed.append(weights(model)[name])
        return 1.0

    settings = settings_for("schedule_free_adamw", tmp_path, evaluations=2, probes={"clean_train_loss": probe})
    settings = replace(settings, on_progress=lambda _: trained.append(weights(model)[name]))
    finetune(model, tiny_tokenizer(), tiny_documents(), settings=settings)
    assert len(trained) == 10
    assert torch.equal(probed[-1], weights(model)[name])
    assert not torch.equal(trained[-1], probed[-1])
    assert not torch.equal(trained[2], probed[1])


def test_probing_a_schedule_free_training_leaves_it_to_the_bit(tmp_path):
    found = []
    for evaluations in (1, 8):
        model = tiny_llama()
        settings = settings_for(
            "schedule_free_adamw", tmp_path, evaluations=evaluations, probes={"clean_train_loss": lambda: 1.0}
        )
        finetune(model, tiny_tokenizer(), tiny_documents(), settings=settings)
        found.append(weights(model))
    assert_same_bits(*found)


def test_schedule_free_warms_up_over_the_share_of_the_steps(tmp_path, monkeypatch):
    from schedulefree import AdamWScheduleFree

    used: list[float] = []
    real = AdamWScheduleFree.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        used.append(self.param_groups[0]["scheduled_lr"])
        return result

    monkeypatch.setattr(AdamWScheduleFree, "step", step)
    settings = settings_for("schedule_free_adamw", tmp_path, warmup_ratio=0.4)
    finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)
    assert used == pytest.approx([0.0025, 0.005, 0.0075, *[0.01] * 7])


def cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "cosine_with_min_lr"}, [0.0, 0.5, *(0.1 + 0.9 * cosine(k / 8) for k in range(8))]),
        (
            {"schedule": "cosine_with_min_lr", "min_lr_ratio": 0.5},
            [0.0, 0.5, *(0.5 + 0.5 * cosine(k / 8) for k in range(8))],
        ),
        ({"schedule": "wsd"}, [0.0, 0.5, 1, 1, 1, 1, 1, 1, 1, 0.5]),
        (
            {"schedule": "wsd", "decay_ratio": 0.4, "min_lr_ratio": 0.2},
            [0.2, 0.6, 1, 1, 1, 1, *(0.2 + 0.8 * cosine(k / 4) for k in range(4))],
        ),
    ],
)
def test_learning_rate_follows_the_schedule(settings, expected, tmp_path):
    seen: list[Progress] = []
    asked = tiny_settings(tmp_path, warmup_ratio=0.2, learning_rate=1e-3, **settings)
    finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=replace(asked, on_progress=seen.append))
    rates = [1e3 * progress.values["learning_rate"] for progress in seen]
    assert rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_lr_ratio": 0.1}, "min_lr_ratio belongs to schedule cosine_with_min_lr or wsd, got it with 'cosine'"),
        ({"schedule": "cosine_with_min_lr", "decay_ratio": 0.1}, "decay_ratio belongs to schedule wsd"),
    ],
)
def test_a_setting_of_another_schedule_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_what_cannot_be_made_here_is_refused_before_anything(monkeypatch):
    with pytest.raises(UnknownNameError, match="Did you mean 'lion'"):
        check_optimizer(TrainConfig(optimizer="lionn"))
    with pytest.raises(ConfigError, match=r"takes the place of a schedule.*Set --train.schedule constant"):
        check_optimizer(TrainConfig(optimizer="schedule_free_adamw"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, found in optimizers.items():
        if found.library:
            with pytest.raises(MissingExtraError, match=rf"{name}.* needs {found.library}.*neftune\[optim\]"):
                check_optimizer(TrainConfig(optimizer=name, schedule="constant"))
