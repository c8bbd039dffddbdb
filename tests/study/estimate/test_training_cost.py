"""Optimisers, frozen parts, quantisation, ranks, regularisers: what they cost, against what torch really holds."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from neftune.analysis.choosing import HeldOut
from neftune.config import DataConfig, ModelConfig, Recipe, RunConfig, TrainConfig
from neftune.errors import ConfigError
from neftune.recipe import validate
from neftune.records import PlannedRun
from neftune.report.estimate import estimate_data, estimate_text, kind_names
from neftune.study.estimate.compute import train_flops
from neftune.study.estimate.estimate import StudyEstimate, estimate_run, estimate_study
from neftune.study.estimate.evidence import MACHINE, earlier_runs, measured
from neftune.study.estimate.machine import Machine, find_machine
from neftune.study.estimate.memory import PROCESS_BYTES
from neftune.study.estimate.plan import plan_without_training
from neftune.study.estimate.schedule import wall_clock
from neftune.study.estimate.shapes import model_shape
from neftune.study.estimate.training_cost import OPTIMIZERS, optimizer_bytes, passes
from neftune.training.freezing import frozen
from neftune.training.models import _add_adapters, _load_network
from neftune.training.optimizers import optimizers
from neftune.training.regularizers import regularizers
from neftune.training.trainer import make_trainer, trainer_arguments
from tests.study.estimate.test_compute import LENGTH, ROWS, counted
from tests.tiny import make_checkpoint, make_recipe
from tests.tiny_training import tiny_documents, tiny_llama, tiny_tokenizer

DATA = DataConfig()
HERE = Machine("cpu", "here", 4, 10**10, None)


def config_of(folder: Path, **changes: dict[str, object]) -> RunConfig:
    values = make_recipe(folder)
    base = {name: value for name, value in values.items() if name not in ("name", "study")}
    return RunConfig.model_validate(
        {**base, **{group: {**base.get(group, {}), **more} for group, more in changes.items()}}
    )


def h100(number: int = 1) -> Machine:
    return find_machine("h100", processors=number, workers=1, utilisation=None)


def estimated(folder: Path, machine: Machine, **changes: object) -> StudyEstimate:
    recipe = validate(Recipe, make_recipe(folder, **changes), source="test")
    return estimate_study(recipe, root=folder / "runs", machine=machine, choosing=HeldOut())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_are_those_of_the_real_optimiser(name: str, tmp_path: Path):
    library = optimizers[name].library
    if library:
        pytest.importorskip(library)
    model = tiny_llama(hidden_size=64, intermediate_size=128)
    model.config.save_pretrained(tmp_path)
    train = TrainConfig(optimizer=name, batch_size=8, epochs=1, schedule="constant")
    arguments = trainer_arguments(train, seed=0, folder=tmp_path, num_steps=1)
    documents = tiny_documents(8)
    trainer: Any = make_trainer(model, tiny_tokenizer(), documents, arguments=arguments)
    trainer.train()
    states = trainer.optimizer.optimizer.state.values()
    held = {
        value.data_ptr(): value.nbytes
        for state in states
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.ndim and not key.startswith("qmap")
    }
    shape = model_shape(ModelConfig(path=str(tmp_path)), DATA)
    assert optimizer_bytes(name, shape.sizes, 4) == pytest.approx(sum(held.values()), rel=1e-4)


def test_frozen_parts_have_no_gradients_and_cost_less(tmp_path: Path):
    model = tiny_llama(tie_word_embeddings=False)
    model.set_attn_implementation("eager")
    model.config.save_pretrained(tmp_path)
    config = ModelConfig(path=str(tmp_path))
    parts = ["attention", "head"]
    shape, whole = model_shape(config, DATA, parts), model_shape(config, DATA)
    with frozen(model, parts):
        assert shape.trained == sum(one.numel() for one in model.parameters() if one.requires_grad)
        real = counted(model, backward=True)
    assert train_flops(shape, LENGTH, checkpointing=False) * ROWS * LENGTH == pytest.approx(real, rel=0.05)
    assert train_flops(whole, LENGTH, checkpointing=False) * ROWS * LENGTH > 1.1 * real
    assert not shape.head_trained
    assert whole.head_trained


@pytest.mark.parametrize(("quantization", "dtype"), [("nf4", "bfloat16"), ("int8", "float32"), (None, "bfloat16")])
def test_weights_are_as_large_as_the_real_ones(quantization: Any, dtype: Any, tmp_path: Path):
    if quantization:
        pytest.importorskip("bitsandbytes")
    run = config_of(tmp_path, model={"adapter": "lora", "quantization": quantization, "dtype": dtype})
    network = _add_adapters(_load_network(run.model.path, run.model), run.model)
    real = 0
    for one in network.parameters():
        state = getattr(one, "quant_state", None)
        real += one.nbytes
        real += 0 if state is None else state.absmax.nbytes + state.state2.absmax.nbytes
        real += getattr(one, "SCB", None).nbytes if getattr(one, "SCB", None) is not None else 0
    assert estimate_run(run, h100()).memory.parts["weights"] == pytest.approx(real, rel=0.01)


def test_regularisers_multiply_the_passes(tmp_path: Path):
    plain = estimate_run(config_of(tmp_path), h100())
    for asked, times in (
        ({"r3f": 1.0}, 2),
        ({"freelb": 0.1}, 3),
        ({"freelb": {"strength": 0.1, "steps": 5}, "r3f": 1.0}, 10),
        ({"label_smoothing": 0.1, "dropout": 0.1}, 1),
    ):
        one = estimate_run(config_of(tmp_path, train={"regularizers": asked}), h100())
        assert one.work.train_flops == pytest.approx(times * plain.work.train_flops)
    twice = estimate_run(config_of(tmp_path, train={"regularizers": {"r3f": 1.0}}), h100())
    assert twice.memory.parts["activations"] == 2 * plain.memory.parts["activations"]
    assert twice.memory.parts["output layer"] > plain.memory.parts["output layer"]
    assert passes(TrainConfig()) == 1
    assert {"r3f", "freelb", "label_smoothing", "dropout", "attention_dropout", "noisytune"} >= set(regularizers)


def test_a_run_on_several_ranks_takes_several_processors(tmp_path: Path):
    train = {"world_size": 4, "batch_size": 8, "micro_batch_size": 2}
    alone = {"batch_size": 8, "micro_batch_size": 2}
    base = make_recipe(tmp_path)["train"]
    one = estimated(tmp_path, h100(8), train={**base, **alone})
    four = estimated(tmp_path, h100(8), train={**base, **train})
    (_, single), (_, shared) = one.kinds[0], four.kinds[0]
    assert shared.work.ranks == 4
    assert shared.seconds["training"] < single.seconds["training"]
    assert four.total("seconds") == pytest.approx(4 * 4 * shared.total_seconds)
    assert four.wall_seconds == pytest.approx(2 * shared.total_seconds)  # two of the four runs at a time
    assert shared.memory.parts["gradients to send"] == shared.memory.parts["gradients"]
    assert "a rank" in estimate_text(four)
    assert "exchange of gradients" in estimate_text(four)
    with pytest.raises(ConfigError, match="world_size 4 needs as many processors, got 2"):
        estimated(tmp_path, h100(2), train={**base, **train})


def test_a_wide_run_holds_up_those_behind_it():
    runs = [PlannedRun(run_id=name, arm="", block="", seed=0, config={}) for name in "abc"]
    seconds = {"a": 3.0, "b": 1.0, "c": 1.0}
    assert wall_clock(runs, seconds, slots=2, takes={"a": 1, "b": 2, "c": 1}) == 5
    assert wall_clock(runs, seconds, slots=3, takes={"a": 1, "b": 2, "c": 1}) == 3


def test_kinds_are_named_by_stage_and_in_words(tmp_path: Path):
    study = {
        "scientific": {"noise.alpha": [0, 5]},
        "nuisance": {"train.learning_rate": [1e-4, 1e-3], "train.epochs": [1, 3]},
        "seeds": [0, 1],
        "confirm_seeds": [7],
    }
    estimate = estimated(tmp_path, h100(), study=study)
    names = [kind["name"] for kind in estimate_data(estimate)["kinds"]]
    assert names == ["tune, 1 epoch", "tune, 3 epochs", "main, 3 epochs", "confirm, 3 epochs"]
    assert "[" not in estimate_text(estimate)


def test_settings_that_only_one_kind_has_are_named(tmp_path: Path):
    kinds = [
        ("main", config_of(tmp_path, train=more))
        for more in ({}, {"regularizers": {"r3f": 1.0}}, {"freeze": ["mlp", "norms"]}, {"gradient_checkpointing": True})
    ]
    names = kind_names(kinds)
    assert "no gradient checkpointing, no r3f" in names[0].replace("nothing frozen, ", "")
    assert "r3f 1" in names[1].split(", ")
    assert "frozen mlp+norms" in names[2].split(", ")
    assert "gradient checkpointing" in names[3].split(", ")


def test_memory_here_holds_the_process(tmp_path: Path):
    estimate = estimated(tmp_path, HERE)
    assert estimate.kinds[0][1].memory.peak > PROCESS_BYTES > 3e8
    assert "process 800 MB" in estimate_text(estimate)


def test_a_judge_that_comes_later_is_noted(tmp_path: Path):
    base = make_recipe(tmp_path)["evaluate"]
    silent = estimate_text(estimated(tmp_path, h100()))
    assert "comparisons" not in silent
    estimate = estimated(tmp_path, h100(), evaluate={**base, "judge": "later"})
    number = len(estimate.kinds[0][1].tokens.prompts["test"])
    note = next(note for note in estimate.notes if "judge" in note)
    assert f"compares 2 runs with their baseline on the test part, at most {2 * number} comparisons" in note


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"optimizer": "lion"}},
        {"train": {"regularizers": {"r3f": 1.0}}},
        {"train": {"freeze": ["mlp"]}},
        {"train": {"world_size": 2}},
        {"train": {"loss_on": "all"}},
        {"model": {"adapter": "lora", "quantization": "nf4"}},
    ],
)
def test_evidence_is_of_runs_that_cost_the_same(change: dict[str, dict[str, object]], tmp_path: Path):
    config = config_of(tmp_path)
    one = {
        "config": config.model_dump(mode="json"),
        "counts": {"train_tokens": 100, "documents": 24, "steps": 6},
        "seconds": {"training": 8.0, "evaluation": 3.0},
        "asked": 3,
    }
    assert measured(config, [one]) is not None
    assert measured(config_of(tmp_path, **change), [one]) is None
    for name in ("optimizer", "regularizers", "freeze", "world_size", "loss_on"):
        del one["config"]["train"][name]  # older than these settings
    assert measured(config, [one]) is not None


def test_the_newest_results_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neftune.study.estimate.evidence.NEWEST", 2)
    for age in range(4):
        path = tmp_path / "runs" / f"{age}" / "result.json"
        path.parent.mkdir(parents=True)
        values = {
            "config": {}, "counts": {}, "noise": None, "seconds": {"training": age}, "answers": {}, "scores": {},
            "versions": {"machine": MACHINE},
        }  # fmt: skip
        path.write_text(json.dumps(values))
        os.utime(path, (1e9 - age, 1e9 - age))
    assert [run["seconds"]["training"] for run in earlier_runs(tmp_path)] == [0, 1]


def test_quantised_dora_is_measured_here(tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    wide = str(make_checkpoint(tmp_path / "wide", width=64))  # bitsandbytes' kernel for the CPU wants that much
    run = config_of(tmp_path, model={"path": wide, "adapter": "dora", "quantization": "nf4"}, train={"world_size": 2})
    one = estimate_run(run, HERE)
    assert "a few steps of this model" in one.evidence
    assert one.seconds["training"] > 0


def test_what_is_left_out_is_said(tmp_path: Path):
    recipe = validate(
        Recipe, make_recipe(tmp_path, model={**make_recipe(tmp_path)["model"], "adapter": "dora"}), source="test"
    )
    plan = plan_without_training(recipe, root=tmp_path / "runs", choosing=HeldOut())
    assert any("DoRA's norms" in note for note in plan.notes)
