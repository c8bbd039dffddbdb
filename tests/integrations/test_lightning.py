"""The callback under real Lightning: the same noise, epochs and clean phases as in transformers' Trainer."""

import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import neftune
from neftune.errors import ConfigError, NoiseError
from neftune.integrations.lightning import NoiseCallback
from tests.integrations.test_trainer_phases import is_clean
from tests.integrations.test_transformers import collate, make_trainer, rows, same
from tests.tiny_families import make, without_dropout

lightning = pytest.importorskip("lightning.pytorch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

NOISE_KEYS = {"noise_alpha", "noise_to_embedding", "noise_documents", "noise_tokens"}


class Tuning(lightning.LightningModule):
    """Fine-tuning as one writes it in Lightning."""

    def __init__(self, family: str = "llama", learning_rate: float = 1e-2, fails_at: int = -1) -> None:
        super().__init__()
        self.model = without_dropout(make(family))
        self.learning_rate = learning_rate
        self.fails_at = fails_at
        self.failure: BaseException = RuntimeError("out of luck")
        self.losses: list[float] = []
        self.validated: list[float] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.global_step == self.fails_at:
            raise self.failure
        loss = self.model(**batch).loss
        self.losses.append(loss.item())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.validated.append(self.model(**batch).loss.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


class Log(lightning.loggers.logger.Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    name, version = "log", 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(dict(metrics))

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        pass


def loader(batch_size: int = 3) -> DataLoader[Any]:
    return DataLoader(rows(), batch_size=batch_size, collate_fn=collate)  # pyright: ignore[reportArgumentType]


def fit(module: nn.Module, folder: Path, *callbacks: Any, resume: str | None = None, **options: Any) -> Any:
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 2,
        "default_root_dir": str(folder),
    }
    trainer = lightning.Trainer(callbacks=list(callbacks), **{**settings, **options})
    trainer.fit(module, loader(), loader(), ckpt_path=resume)
    return trainer


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    # Lightning answers a KeyboardInterrupt by ignoring SIGINT from then on, in the whole process.
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_the_noise_is_that_of_transformers_trainer(tmp_path):
    module, noise = Tuning(learning_rate=0.0), NoiseCallback(20.0)
    fit(module, tmp_path, noise)
    other = neftune.NoiseCallback(20.0)
    make_trainer(tmp_path, other, learning_rate=0.0).train()
    assert asdict(noise.realised()) == pytest.approx(asdict(other.realised()), rel=1e-6)
    assert module.losses[:4] != module.losses[4:], "each epoch is an exposure of its own"
    with neftune.attach(module.model, 20.0) as handle:
        for epoch in (0, 1):
            handle.set_epoch(epoch)
            expected = [module.model(**batch).loss.item() for batch in loader()]
            assert module.losses[4 * epoch : 4 * epoch + 4] == expected
    assert is_clean(module)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_realised_noise_is_logged_in_the_rows_of_the_loss(tmp_path, accumulation):
    log, noise = Log(), NoiseCallback(5.0)
    trainer = fit(Tuning(), tmp_path, noise, logger=log, max_epochs=4, accumulate_grad_batches=accumulation)
    noised = [row for row in log.rows if row.keys() >= NOISE_KEYS]
    assert len(noised) == 8 // accumulation
    assert all("loss" in row for row in noised)
    assert [row["noise_documents"] for row in noised] == [6 * accumulation * (i + 1) for i in range(8 // accumulation)]
    assert all(row["noise_alpha"] == pytest.approx(5.0, rel=0.05) for row in noised)
    assert float(trainer.callback_metrics["noise_alpha"]) == pytest.approx(noised[-1]["noise_alpha"])


def test_the_sanity_check_validation_and_testing_are_clean(tmp_path):
    module = Tuning(learning_rate=0.0)
    trainer = fit(module, tmp_path, NoiseCallback(100.0), val_check_interval=1)
    expected = [module.model(**batch).loss.item() for batch in loader()]
    assert module.validated == pytest.approx(expected[:2] + expected * 8, abs=1e-6)
    module.validated.clear()
    trainer.validate(module, loader(), verbose=False)
    assert module.validated == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_the_baseline_equals_fitting_without_the_callback_bit_for_bit(tmp_path, options):
    trained = {}
    for alpha in (None, 0.0, 5.0):
        torch.manual_seed(1)
        module = Tuning("gpt2")
        fit(module, tmp_path, *([] if alpha is None else [NoiseCallback(alpha)]), **options)
        trained[alpha] = weights(module)
    assert same(trained[None], trained[0.0])
    assert not same(trained[None], trained[5.0])


@pytest.mark.parametrize("failure", [RuntimeError("out of luck"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_after_an_exception_the_model_is_clean_and_can_be_fitted_again(tmp_path, failure):
    module, noise = Tuning(fails_at=3), NoiseCallback(5.0)
    module.failure = failure
    with pytest.raises((RuntimeError, SystemExit)):
        fit(module, tmp_path, noise)
    assert is_clean(module)
    module.fails_at = -1
    fit(module, tmp_path, noise)
    assert noise.realised().num_documents == 24
    assert noise.realised().alpha_mean == pytest.approx(5.0, rel=0.02)


def test_checkpoints_are_those_of_a_model_without_noise_and_resuming_equals_going_on(tmp_path):
    options = {"max_epochs": 3, "enable_checkpointing": True}

    def saves(folder: str) -> Any:
        return lightning.callbacks.ModelCheckpoint(dirpath=str(tmp_path / folder), save_top_k=-1, filename="{epoch}")

    whole = Tuning()
    fit(whole, tmp_path, NoiseCallback(20.0), saves("noised"), **options)
    bare = Tuning()
    fit(bare, tmp_path, saves("bare"), **options)
    noised = torch.load(tmp_path / "noised" / "epoch=1.ckpt", weights_only=False)
    clean = torch.load(tmp_path / "bare" / "epoch=1.ckpt", weights_only=False)
    assert noised["state_dict"].keys() == clean["state_dict"].keys()
    assert noised["callbacks"].keys() - clean["callbacks"].keys() == {"NoiseCallback"}
    for epoch in (0, 1):
        resumed, noise = Tuning(), NoiseCallback(20.0)
        resume = str(tmp_path / "noised" / f"epoch={epoch}.ckpt")
        fit(resumed, tmp_path, noise, resume=resume, **options)
        assert same(weights(resumed), weights(whole))
        assert noise.realised().num_documents == 36, "counted on"


class Distilling(Tuning):
    """Two models in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = without_dropout(make("llama"))


def test_which_model_is_asked_where_there_are_two(tmp_path):
    with pytest.raises(
        NoiseError, match=r"one model with get_input_embeddings\(\) in Distilling, got 2: model, teacher"
    ):
        fit(Distilling(), tmp_path, NoiseCallback(5.0))
    module, noise = Distilling(), NoiseCallback(5.0, model="model")
    fit(module, tmp_path, noise)
    assert noise.realised().num_documents == 24
    assert is_clean(module)


def test_a_module_without_a_model(tmp_path):
    module = Tuning()
    module.model = nn.Linear(2, 2)
    with pytest.raises(
        NoiseError, match=r"in Tuning, got 0\. Say which: NoiseCallback\(model='name of its attribute'\)"
    ):
        fit(module, tmp_path, NoiseCallback(5.0), num_sanity_val_steps=0)


def test_a_model_in_evaluation_mode_is_refused_at_the_first_step(tmp_path):
    module = Tuning()
    module.model.eval()
    with pytest.raises(NoiseError, match=r"must reach the model, got 1 training steps and 0 .* \(model\.train\(\)\)"):
        fit(module, tmp_path, NoiseCallback(5.0))
    assert len(module.losses) == 1
    assert is_clean(module)


def test_two_callbacks(tmp_path):
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `NoiseCallback`"):
        fit(Tuning(), tmp_path, NoiseCallback(5.0), NoiseCallback(5.0))
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.callbacks += [NoiseCallback(5.0), NoiseCallback(5.0)]
    with pytest.raises(ConfigError, match=r"one noise at a time, the trainer has 2 NoiseCallbacks\. Keep one"):
        trainer.fit(Tuning(), loader())


def test_a_schedule_follows_the_steps_of_the_fit(tmp_path):
    log = Log()
    fit(Tuning(), tmp_path, NoiseCallback(8.0, schedule="linear"), logger=log, log_every_n_steps=1)
    asked = [row["noise_alpha_asked"] for row in log.rows if "noise_alpha_asked" in row]
    assert asked == [8.0 - step for step in range(8)]
    assert [row["noise_alpha"] for row in log.rows if "noise_alpha" in row] == pytest.approx(asked, rel=0.15)


def test_a_schedule_needs_a_fit_that_ends(tmp_path):
    with pytest.raises(ConfigError, match=r"schedule 'linear' needs a fit that ends, got neither max_steps nor max_ep"):
        fit(Tuning(), tmp_path, NoiseCallback(5.0, schedule="linear"), max_epochs=-1)


def test_a_fit_by_ratio_goes_on_with_the_alpha_it_began_with(tmp_path):
    saves = lightning.callbacks.ModelCheckpoint(dirpath=str(tmp_path), save_top_k=-1, filename="{epoch}")
    options = {"enable_checkpointing": True, "max_epochs": 2}
    whole, noise = Tuning(), NoiseCallback(nsr=0.5, length=8)
    fit(whole, tmp_path, noise, saves, **options)
    resumed, later = Tuning(), NoiseCallback(nsr=0.5, length=8)
    fit(resumed, tmp_path, later, resume=str(tmp_path / "epoch=0.ckpt"), **options)
    assert same(weights(resumed), weights(whole))
    assert later.realised() == noise.realised()


def test_reading_too_early():
    with pytest.raises(NoiseError, match=r"Call it after trainer\.fit"):
        NoiseCallback(5.0).realised()


def test_settings_are_checked_at_once():
    with pytest.raises(ConfigError, match="noise alpha must be a finite number >= 0, got -1"):
        NoiseCallback(-1)
