"""The callback in real trainers: transformers' own and TRL's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import neftune
from neftune.errors import ConfigError, NoiseError
from neftune.noise.hooks import hook_owner
from tests.tiny_families import VOCAB, make, make_batch, without_dropout

NUM_EXAMPLES, EPOCHS = 12, 2
TOTAL_TOKENS = sum(4 + i % 9 for i in range(NUM_EXAMPLES))
NOISE_KEYS = {"noise_alpha", "noise_to_embedding", "noise_documents", "noise_tokens"}


def rows() -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(3, VOCAB, (4 + i % 9,), generator=generator).tolist()} for i in range(NUM_EXAMPLES)
    ]


def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(example["input_ids"]) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        ids[row, : len(example["input_ids"])] = torch.tensor(example["input_ids"])
        mask[row, : len(example["input_ids"])] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def arguments(folder: Path, **options: object) -> TrainingArguments:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 3,
        "num_train_epochs": EPOCHS,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**settings, **options})  # pyright: ignore[reportArgumentType]


def make_trainer(folder: Path, *callbacks: TrainerCallback, model: torch.nn.Module | None = None, **options) -> Trainer:
    model = without_dropout(make("llama")) if model is None else model
    return Trainer(
        model,
        arguments(folder, **options),
        train_dataset=Dataset.from_list(rows()),
        eval_dataset=Dataset.from_list(rows()),
        data_collator=collate,
        callbacks=list(callbacks),
    )


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Listener(TrainerCallback):
    """A tracker: keeps a copy of each log the moment it hears of it."""

    def __init__(self) -> None:
        self.heard: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.heard.append(dict(logs))


class Breaks(TrainerCallback):
    """Fails at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_realised_noise_is_read_logged_and_heard_by_earlier_callbacks(tmp_path):
    listener, noise = Listener(), neftune.NoiseCallback(5.0)
    trainer = make_trainer(tmp_path, listener, noise)
    trainer.train()
    realised = noise.realised()
    assert realised.alpha_mean == pytest.approx(5.0, rel=0.02)
    assert (realised.num_documents, realised.num_tokens) == (NUM_EXAMPLES * EPOCHS, TOTAL_TOKENS * EPOCHS)
    assert realised.num_forwards == 8
    assert hook_owner(trainer.model.get_input_embeddings()) is None
    for logs in (trainer.state.log_history, listener.heard):
        training = [log for log in logs if "loss" in log]
        assert len(training) == 4
        assert all(log.keys() >= NOISE_KEYS for log in training)
        assert [log["noise_documents"] for log in training] == [6, 12, 18, 24]
        assert training[-1]["noise_tokens"] == TOTAL_TOKENS * EPOCHS
    mean = sum(log["noise_alpha"] for log in listener.heard if "loss" in log) / 4
    assert mean == pytest.approx(realised.alpha_mean)
    assert not NOISE_KEYS & trainer.state.log_history[-1].keys()


def test_evaluation_in_between_is_clean(tmp_path):
    noise = neftune.NoiseCallback(100.0)
    trainer = make_trainer(
        tmp_path, noise, eval_strategy="steps", eval_steps=1, learning_rate=0.0, per_device_eval_batch_size=3
    )
    clean = trainer.evaluate()["eval_loss"]
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert losses == pytest.approx([clean] * len(losses), abs=1e-6)
    assert len(losses) == 8
    noisy = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert min(abs(loss - clean) for loss in noisy) > 1e-4


def test_baseline_equals_training_without_the_callback_bit_for_bit(tmp_path):
    trained = []
    for callbacks in ([], [neftune.NoiseCallback(0.0)], [neftune.NoiseCallback(5.0)]):
        trainer = make_trainer(tmp_path, *callbacks, model=make("gpt2"))
        trainer.train()
        trained.append(weights(trainer))
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


def test_each_epoch_is_an_exposure_of_its_own_and_only_that(tmp_path):
    losses = []
    for seed in (0, 0, 1):
        trainer = make_trainer(
            tmp_path, neftune.NoiseCallback(50.0, seed=seed), learning_rate=0.0, per_device_train_batch_size=12
        )
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]

    trainer = make_trainer(
        tmp_path, neftune.NoiseCallback(50.0), learning_rate=0.0, per_device_train_batch_size=12, logging_steps=1
    )
    trainer.train()
    first, second = (log["loss"] for log in trainer.state.log_history if "loss" in log)
    assert first != pytest.approx(second, abs=1e-4), "same documents, next epoch, other noise"


def test_epochs_of_a_stream_of_unknown_length_count_as_well(tmp_path):
    noise = neftune.NoiseCallback(50.0)
    options = {"learning_rate": 0.0, "per_device_train_batch_size": 12, "logging_steps": 1, "max_steps": 5}
    trainer = make_trainer(tmp_path, noise, **options)
    trainer.train_dataset = trainer.train_dataset.to_iterable_dataset()
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(set(losses)) == 5, "five passes over the stream are five exposures"


def test_accumulation_split_does_not_change_the_training(tmp_path):
    histories = []
    for size, accumulation in ((6, 1), (3, 2), (1, 6)):
        trainer = make_trainer(
            tmp_path,
            neftune.NoiseCallback(20.0),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            logging_steps=1,
            max_grad_norm=0.0,
            optim="sgd",
        )
        trainer.train()
        histories.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert histories[1] == pytest.approx(histories[0], rel=1e-4)
    assert histories[2] == pytest.approx(histories[0], rel=1e-4)


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    def trainer(folder: str, *callbacks: TrainerCallback) -> Trainer:
        options = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
        return make_trainer(tmp_path / folder, neftune.NoiseCallback(20.0), *callbacks, model=make("gpt2"), **options)

    whole = trainer("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer("killed", Breaks(7)).train()
    for stop in (2, 4, 6):
        resumed = trainer("resumed")
        resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{stop}"))
        assert same(weights(resumed), weights(whole)), f"killed after step {stop} of 8, epochs end at 4 and 8"


class TestSchedule:
    """Alpha follows the share of steps done."""

    def asked(self, trainer: Trainer) -> list[float]:
        return [log["noise_alpha_asked"] for log in trainer.state.log_history if "noise_alpha_asked" in log]

    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_it_is_asked_once_a_step_and_what_it_says_is_realised(self, tmp_path, accumulation):
        noise = neftune.NoiseCallback(8.0, schedule="linear")
        sizes = {"per_device_train_batch_size": 3 // accumulation, "gradient_accumulation_steps": accumulation}
        trainer = make_trainer(tmp_path, noise, logging_steps=1, **sizes)
        trainer.train()
        steps = trainer.state.max_steps
        assert self.asked(trainer) == [8.0 * (1 - step / steps) for step in range(steps)]
        realised = [log["noise_alpha"] for log in trainer.state.log_history if "noise_alpha" in log]
        assert realised == pytest.approx(self.asked(trainer), rel=0.15)

    def test_any_function_of_progress(self, tmp_path):
        seen: list[float] = []

        def half_way(progress: float) -> float:
            seen.append(progress)
            return float(progress >= 0.5)

        noise = neftune.NoiseCallback(8.0, schedule=half_way)
        trainer = make_trainer(tmp_path, noise, logging_steps=1, save_strategy="steps", save_steps=4)
        trainer.train()
        assert self.asked(trainer) == [0.0] * 4 + [8.0] * 4
        assert set(seen) == {step / 8 for step in range(8)}

    def test_resumed_it_goes_on_where_it_was(self, tmp_path):
        def trainer(folder: str) -> Trainer:
            noise = neftune.NoiseCallback(20.0, schedule="cosine")
            options = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1}
            return make_trainer(tmp_path / folder, noise, model=make("gpt2"), **options)

        whole, resumed = trainer("whole"), trainer("resumed")
        whole.train()
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
        assert same(weights(resumed), weights(whole))
        assert self.asked(resumed) == self.asked(whole)


class TestRatio:
    """The noise as a share of the embeddings it is added to."""

    def test_alpha_follows_from_the_model_as_training_begins(self, tmp_path):
        noise = neftune.NoiseCallback(nsr=0.5, length=TOTAL_TOKENS / NUM_EXAMPLES)
        assert noise.settings is None
        trainer = make_trainer(tmp_path, noise, learning_rate=0.0)
        trainer.train()
        expected = neftune.alpha_for(trainer.model, nsr=0.5, length=TOTAL_TOKENS / NUM_EXAMPLES)
        assert noise.settings.alpha == expected
        assert noise.realised().noise_to_embedding == pytest.approx(0.5, rel=0.05)

    def test_a_resumed_training_keeps_the_alpha_it_began_with(self, tmp_path):
        def run(folder: str, resume: str | None = None) -> tuple[Trainer, neftune.NoiseCallback]:
            noise = neftune.NoiseCallback(nsr=0.5, length=8)
            options = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1}
            trainer = make_trainer(tmp_path / folder, noise, model=make("gpt2"), **options)
            trainer.train(resume_from_checkpoint=resume)
            return trainer, noise

        whole, noise = run("whole")
        resumed, later = run("resumed", str(tmp_path / "whole" / "checkpoint-3"))
        assert same(weights(resumed), weights(whole))
        assert later.realised() == noise.realised(), "the meter counts on"
        assert noise.settings == later.settings

    def test_it_is_given_once_and_with_a_length(self):
        with pytest.raises(ConfigError, match=r"given as alpha or as nsr, got alpha=7\.0 and nsr=0\.5\. Give one"):
            neftune.NoiseCallback(7, nsr=0.5, length=10)
        with pytest.raises(ConfigError, match=r"nsr=0\.5 needs the mean document length in tokens, got none"):
            neftune.NoiseCallback(nsr=0.5)


def test_callbacks_restored_by_the_trainer_itself_go_on(tmp_path):
    def run(folder: str, resume: str | None = None, **options: object) -> Trainer:
        noise = neftune.NoiseCallback(20.0, distribution="gaussian", seed=4, schedule="linear")
        trainer = make_trainer(
            tmp_path / folder, noise, save_strategy="steps", save_steps=3, logging_steps=1, **options
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    checkpoint = str(tmp_path / "whole" / "checkpoint-3")
    resumed = run("resumed", checkpoint, restore_callback_states_from_checkpoint=True)
    assert same(weights(resumed), weights(whole))
    drop = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"}
    histories = [[log for log in t.state.log_history if not drop & log.keys()] for t in (resumed, whole)]
    assert histories[0] == histories[1]


def test_a_checkpoint_written_without_the_callback_is_no_obstacle(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3}
    make_trainer(tmp_path, **options).train()
    noise = neftune.NoiseCallback(5.0)
    make_trainer(tmp_path, noise, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert noise.realised().num_documents == 24 - 9


def test_answers_alone_are_noised(tmp_path):
    def half(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        batch = collate(examples)
        batch["labels"][:, :3] = -100
        return batch

    shares = {}
    for positions in ("all", "prompt", "response"):
        noise = neftune.NoiseCallback(5.0, positions=positions)
        trainer = make_trainer(tmp_path, noise)
        trainer.data_collator = half
        trainer.train()
        shares[positions] = noise.realised().num_tokens
    assert shares["prompt"] == 3 * NUM_EXAMPLES * EPOCHS
    assert shares["all"] == shares["prompt"] + shares["response"] == TOTAL_TOKENS * EPOCHS


class TestAfterAnException:
    """What an exception inside ``train()`` leaves behind does no harm."""

    def broken(self, folder: Path, noise: TrainerCallback) -> Trainer:
        trainer = make_trainer(folder, noise, Breaks(2))
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        return trainer

    def test_the_model_is_clean_in_its_next_forward(self, tmp_path):
        trainer, batch = self.broken(tmp_path, neftune.NoiseCallback(50.0)), make_batch()
        model = trainer.model.train()
        assert torch.equal(model(**batch).loss, model(**batch).loss)
        assert hook_owner(model.get_input_embeddings()) is None
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())

    def test_the_next_training_is_noised_once(self, tmp_path):
        noise = neftune.NoiseCallback(5.0)
        trainer = self.broken(tmp_path, noise)
        trainer.pop_callback(Breaks)
        trainer.train()
        assert noise.realised().alpha_mean == pytest.approx(5.0, rel=0.02)
        assert noise.realised().num_documents == NUM_EXAMPLES * EPOCHS
        assert hook_owner(trainer.model.get_input_embeddings()) is None

    def test_another_trainer_may_take_the_model(self, tmp_path):
        model = self.broken(tmp_path, neftune.NoiseCallback(5.0)).model
        noise = neftune.NoiseCallback(10.0)
        make_trainer(tmp_path, noise, model=model).train()
        assert noise.realised().alpha_mean == pytest.approx(10.0, rel=0.02)

    def test_another_trainer_without_noise_has_none(self, tmp_path):
        model = self.broken(tmp_path, neftune.NoiseCallback(500.0)).model
        twin = without_dropout(make("llama"))
        twin.load_state_dict(model.state_dict())
        one, other = make_trainer(tmp_path, model=model), make_trainer(tmp_path, model=twin)
        one.train()
        other.train()
        assert same(weights(one), weights(other))

    def test_it_can_be_taken_off_by_hand(self, tmp_path):
        noise = neftune.NoiseCallback(5.0)
        trainer = self.broken(tmp_path, noise)
        noise.detach()
        assert hook_owner(trainer.model.get_input_embeddings()) is None


class TestRefusals:
    """Misuse is an error that says what to do."""

    def test_both_noises(self, tmp_path):
        with pytest.raises(ConfigError, match=r"got NoiseCallback and the training argument neftune_noise_alpha=5\.0"):
            make_trainer(tmp_path, neftune.NoiseCallback(5.0), neftune_noise_alpha=5.0)

    def test_callback_added_later_beside_transformers_noise(self, tmp_path):
        trainer = make_trainer(tmp_path, neftune_noise_alpha=5.0)
        trainer.add_callback(neftune.NoiseCallback(5.0))
        with pytest.raises(ConfigError, match="Remove neftune_noise_alpha"):
            trainer.train()

    def test_packing_without_boundaries(self):
        noise, control = neftune.NoiseCallback(5.0), TrainerControl()
        for packing, strategy in [(True, "bfd"), (False, "wrapped")]:
            args: Any = SimpleNamespace(packing=packing, packing_strategy=strategy)
            noise.on_init_end(args, TrainerState(), control)
        args = SimpleNamespace(packing=True, packing_strategy="wrapped")
        for event in (noise.on_init_end, noise.on_train_begin):
            with pytest.raises(ConfigError, match=r"needs packed rows.*got packing_strategy='wrapped'.*Use .*'bfd'"):
                event(args, TrainerState(), control)

    def test_two_callbacks(self, tmp_path):
        message = r"one noise at a time, the trainer has 2 NoiseCallbacks\. Keep one of them\."
        noise = neftune.NoiseCallback(5.0)
        for other in (noise, neftune.NoiseCallback(10.0)):
            with pytest.raises(ConfigError, match=message):
                make_trainer(tmp_path, noise, other)
            trainer = make_trainer(tmp_path, noise)
            trainer.add_callback(other)
            with pytest.raises(ConfigError, match=message):
                trainer.train()
            assert hook_owner(trainer.model.get_input_embeddings()) is None

    def test_attached_by_hand_already(self, tmp_path):
        trainer = make_trainer(tmp_path, neftune.NoiseCallback(5.0))
        with neftune.attach(trainer.model, 5.0), pytest.raises(NoiseError, match="has one already"):
            trainer.train()

    def test_a_training_that_never_calls_the_model(self, tmp_path):
        class Elsewhere(Trainer):
            def compute_loss(self, model, inputs, **kwargs):
                return model.lm_head.weight.square().mean()

        trainer = make_trainer(tmp_path, neftune.NoiseCallback(5.0))
        trainer.__class__ = Elsewhere
        with pytest.raises(
            NoiseError, match=r"noise of alpha=5\.0 must reach the model, got 1 training steps and 0 doc"
        ):
            trainer.train()

    def test_reading_too_early(self):
        with pytest.raises(NoiseError, match=r"Call it after trainer\.train"):
            neftune.NoiseCallback(5.0).realised()

    @pytest.mark.parametrize("alpha", [-1, "5", float("nan"), True])
    def test_alpha(self, alpha):
        with pytest.raises(ConfigError, match="noise alpha must be a finite number >= 0, got "):
            neftune.NoiseCallback(alpha)
