"""A study's estimate: its runs, what is done, memory that fits or not, evidence for its time."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from neftune.analysis.choosing import HeldOut
from neftune.config import Recipe, RunConfig
from neftune.errors import ConfigError, UnknownNameError
from neftune.recipe import read_recipe, validate
from neftune.records import PlannedRun
from neftune.report.estimate import estimate_data, estimate_text
from neftune.study.estimate.compute import seconds_on
from neftune.study.estimate.disk import run_disk
from neftune.study.estimate.estimate import StudyEstimate, estimate_run, estimate_study
from neftune.study.estimate.evidence import MACHINE, earlier_runs, measured
from neftune.study.estimate.hardware import hardware
from neftune.study.estimate.machine import Machine, find_machine
from neftune.study.estimate.plan import plan_without_training
from neftune.study.run import run_one
from neftune.study.store import Store
from tests.staged import play
from tests.tiny import make_recipe

ROOT = Path(__file__).parents[3]
LLAMA = str(ROOT / "recipes/shapes/llama-2-7b")


def recipe_of(folder: Path, **changes: object) -> Recipe:
    return validate(Recipe, make_recipe(folder, **changes), source="test")


def estimated(recipe: Recipe, *, root: Path, machine: Machine) -> StudyEstimate:
    return estimate_study(recipe, root=root, machine=machine, choosing=HeldOut())


def planned(recipe: Recipe, root: Path) -> tuple[PlannedRun, ...]:
    return plan_without_training(recipe, root=root, choosing=HeldOut()).runs


def llama(**train: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": LLAMA, "dtype": "bfloat16"},
            "data": {"source": "alpaca", "num_heldout": 500, "num_test": 300},
            "train": {"micro_batch_size": 4, "gradient_checkpointing": True, **train},
        }
    )


def machine(name: str, number: int = 1) -> Machine:
    return find_machine(name, processors=number, workers=1, utilisation=None)


def test_a_study_is_estimated_without_being_started(tmp_path: Path):
    recipe = recipe_of(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    estimate = estimated(recipe, root=tmp_path / "runs", machine=machine("h100", 4))
    assert sorted(tmp_path.rglob("*")) == before
    assert (estimate.runs, estimate.done, dict(estimate.stages)) == (4, 0, {"main": 4})
    assert len(estimate.kinds) == 1  # alpha and seed cost nothing
    _, one = estimate.kinds[0]
    assert estimate.wall_seconds == pytest.approx(one.total_seconds)
    assert estimate.total("seconds") == pytest.approx(4 * one.total_seconds)
    assert estimate.total("train_tokens") == 4 * one.work.train_tokens


def test_what_is_done_is_not_counted_and_tells_how_long_the_rest_takes(tmp_path: Path):
    recipe = recipe_of(tmp_path)
    store = Store(tmp_path / "runs")
    records = [
        run_one(run.run_id, RunConfig.model_validate(run.config), tmp_path / "work")
        for run in planned(recipe, tmp_path / "none")
    ]
    for record in records:
        store.write_result(record)
    here = Machine("cpu", "here", 2, 10**10, None)
    assert estimated(recipe, root=tmp_path / "runs", machine=here).runs == 0
    more = recipe.model_copy(update={"study": recipe.study.model_copy(update={"seeds": [0, 1, 2]})})
    estimate = estimated(more, root=tmp_path / "runs", machine=here)
    assert (estimate.runs, estimate.done) == (2, 4)
    _, one = estimate.kinds[0]
    assert "4 earlier runs" in one.evidence
    seconds = sorted(record.seconds["training"] for record in records)
    assert seconds[0] <= one.seconds["training"] <= seconds[-1]
    longer = more.model_copy(update={"train": more.train.model_copy(update={"epochs": 4.0})})
    twice = estimated(longer, root=tmp_path / "runs", machine=here)
    assert twice.done == 0
    assert twice.kinds[0][1].seconds["training"] == pytest.approx(2 * one.seconds["training"])
    text = estimate_text(estimate)
    assert "2 runs to do (main 6, 4 done already)" in text
    assert len(text.splitlines()) <= 20


def test_earlier_runs_of_another_kind_or_machine_are_no_evidence(tmp_path: Path):
    config = RunConfig.model_validate({k: v for k, v in make_recipe(tmp_path).items() if k not in ("name", "study")})
    values = {
        "config": config.model_dump(mode="json"),
        "counts": {"train_tokens": 100, "documents": 24, "steps": 6},
        "seconds": {"training": 8.0, "evaluation": 3.0, "loading": 1.0},
        "noise": None,
        "answers": {"test": []},
        "scores": {"test": {"example_ids": ["a", "b", "c"]}, "arc": {"example_ids": ["q"]}},
        "versions": {"machine": MACHINE},
    }
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)

    def write(**changes: object) -> None:
        (folder / "result.json").write_text(json.dumps({**values, **changes}))

    write()
    found = measured(config, earlier_runs(tmp_path))
    assert (found.runs, found.train_seconds, found.evaluation_seconds) == (1, pytest.approx(8 / 200), 1.0)
    longer = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"max_new_tokens": 99})})
    assert measured(longer, earlier_runs(tmp_path)) is None
    write(versions={"machine": "a cluster"})
    assert measured(config, earlier_runs(tmp_path)) is None
    (folder / "result.json").write_text("{")
    assert earlier_runs(tmp_path) == []


def test_without_earlier_runs_a_small_model_is_measured_here(tmp_path: Path):
    estimate = estimated(recipe_of(tmp_path), root=tmp_path / "runs", machine=Machine("cpu", "here", 1, 1e10, None))
    _, one = estimate.kinds[0]
    assert "a few steps of this model" in one.evidence
    assert one.seconds["training"] > 0
    assert one.seconds["evaluation"] > 0


def test_a_model_too_large_for_this_machine_has_no_time_here_and_does_not_fit():
    one = estimate_run(llama(), Machine("cpu", "here", 1, 12e9, None))
    assert not one.seconds
    assert "name --hardware" in one.evidence
    assert not one.fits
    assert one.remedies == []


def test_time_follows_operations_peak_and_share():
    one = estimate_run(llama(), machine("h100"))
    # 6 N a token and once more forward: 8 N, by hand, at the mean padded length
    by_hand = 8 * 6.607e9 * one.work.padded_tokens
    assert one.work.train_flops == pytest.approx(by_hand, rel=0.03)
    assert one.seconds["training"] == pytest.approx((one.work.train_flops + one.work.watch_flops) / (989e12 * 0.3))
    half = seconds_on(hardware["h100"], one.shape, one.work, dtype="bfloat16", utilisation=0.15)
    assert half["training"] == pytest.approx(2 * one.seconds["training"])
    float32 = seconds_on(hardware["h100"], one.shape, one.work, dtype="float32", utilisation=0.3)
    assert float32["training"] == pytest.approx(one.seconds["training"] * 989 / 67)


def test_decoding_takes_at_least_what_eager_kernels_do():
    one = estimate_run(llama(), machine("h200"))
    steps = sum(number for number, _, _ in one.work.decoding_steps)
    assert one.seconds["evaluation"] > steps / 25.5
    assert one.work.answer_tokens == one.work.answers * 256 == (100 + 500 + 300) * 256


def test_memory_is_weights_gradients_and_two_states_in_the_weights_type():
    one = estimate_run(llama(), machine("h100"))
    number = one.shape.parameters
    assert [one.memory.parts[name] for name in ("weights", "gradients", "optimizer")] == [
        2 * number,
        2 * number,
        4 * number,
    ]
    assert one.fits
    assert one.memory.peak == sum(one.memory.parts.values()) + 10**9
    plain = estimate_run(llama(gradient_checkpointing=False, micro_batch_size=16), machine("h100"))
    assert plain.memory.parts["activations"] > 10 * one.memory.parts["activations"]
    assert not plain.fits
    assert "train.micro_batch_size=1" in plain.remedies
    assert "train.gradient_checkpointing=true" in plain.remedies


def test_on_24_gigabytes_adapters_fit_and_the_whole_model_does_not():
    one = estimate_run(llama(), machine("a5000"))
    assert not one.fits
    assert one.remedies == ["model.adapter=lora"]
    lora = llama().model_copy(update={"model": llama().model.model_copy(update={"adapter": "lora"})})
    small = estimate_run(lora, machine("a5000"))
    assert small.fits
    assert small.memory.parts["optimizer"] == 8 * small.shape.adapters  # PEFT makes them float32


def test_disk_is_answers_checkpoints_and_weights():
    config = llama(checkpoints=4, save_model=True)
    one = estimate_run(config, machine("h100"))
    assert one.disk.model == 2 * one.shape.parameters
    assert one.disk.checkpoints == 3 * 6 * one.shape.parameters  # two kept, a third in the making
    none = run_disk(llama(), one.shape, one.tokens)
    assert none.checkpoints == none.model == 0
    assert none.record > 4 * one.work.answer_tokens


def test_ten_thousand_runs_are_estimated_in_one_go(tmp_path: Path):
    recipe = recipe_of(tmp_path, study={"scientific": {"noise.alpha": list(range(20))}, "seeds": list(range(500))})
    estimate = estimated(recipe, root=tmp_path / "runs", machine=machine("h100", 64))
    assert estimate.runs == 10_000
    assert len(estimate.kinds) == 1
    _, one = estimate.kinds[0]
    assert estimate.wall_seconds == pytest.approx(one.total_seconds * -(-10_000 // 64))


STAGED = {
    "nuisance": {
        "scientific": {"noise.alpha": [0, 5]},
        "nuisance": {"train.learning_rate": [1e-4, 1e-3], "train.epochs": [1, 3]},
        "seeds": [0, 1],
    },
    "search": {
        "search": {"knob": "noise.alpha", "low": 0.1, "high": 100, "points": 5, "refine": 2},
        "seeds": [0, 1],
        "confirm_seeds": [10, 11, 12],
    },
    "all": {
        "search": {"knob": "noise.alpha", "low": 0.1, "high": 100, "points": 4, "refine": 1},
        "nuisance": {"train.learning_rate": [1e-4, 1e-3]},
        "blocks": {"data.seed": [0, 1]},
        "seeds": [0, 1],
        "confirm_seeds": [10],
        "controls": [{"kind": "equal_train_loss"}],
    },
}


@pytest.mark.parametrize("name", STAGED)
def test_stages_to_come_are_bounded_by_the_most_they_can_be(name: str, tmp_path: Path):
    recipe = recipe_of(tmp_path, study=STAGED[name])
    estimate = estimated(recipe, root=tmp_path / "runs", machine=machine("h100"))
    middle = play(recipe, lambda config: 2 + abs(math.log10((config.noise.alpha or 1e-9) / 3)) / 10)[1]
    edge = play(recipe, lambda config: 2 + 0.1 / (1 + (config.noise.alpha or 0)))[1]
    counts = [Counter(run.stage for run in result.planned) for result in (middle, edge)]
    assert dict(estimate.stages) == dict(counts[0])
    assert all(counts[1][stage] <= number for stage, number in estimate.stages.items())
    assert "the most there can be" in estimate_text(estimate)
    assert (
        max(one.config.train.epochs for _, one in estimate.kinds) == recipe.study.nuisance.get("train.epochs", [2])[-1]
    )


def test_a_stage_waits_for_the_one_before(tmp_path: Path):
    recipe = recipe_of(tmp_path, study=STAGED["search"])
    estimate = estimated(recipe, root=tmp_path / "runs", machine=machine("h100", 1000))
    plan = plan_without_training(recipe, root=tmp_path / "runs", choosing=HeldOut())
    assert [len(wave) for wave in plan.waves] == [2 * 6, 2 * 2, 2 * 2, 3 * 2]
    longest = [max(one.total_seconds for _, one in estimate.kinds)] * 4
    assert estimate.wall_seconds == pytest.approx(sum(longest), rel=0.6)
    assert estimate.wall_seconds > 2 * longest[0]


def test_data_as_an_axis_makes_kinds_and_the_page_names_them():
    recipe = read_recipe(ROOT / "recipes/llama-2-7b.yaml")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": LLAMA})})
    estimate = estimated(recipe, root=Path("no such folder"), machine=machine("h100", 64))
    data = estimate_data(estimate)
    assert [(kind["name"], kind["runs"]) for kind in data["kinds"]] == [
        (f"data {name}", 20) for name in ("alpaca", "evol-instruct", "sharegpt", "open-platypus")
    ]
    assert data["total"]["seconds"] == pytest.approx(sum(20 * sum(kind["seconds"].values()) for kind in data["kinds"]))
    low, high = (seconds for _, seconds in data["total"]["wall_range"])
    assert high < data["total"]["wall_seconds"] < low
    assert "not here: alpaca, evol-instruct, open-platypus, sharegpt" in estimate_text(estimate)
    json.dumps(data, allow_nan=False)


def test_a_machine_is_named_or_refused():
    assert find_machine("cpu", processors=None, workers=3, utilisation=None).processors == 3
    with pytest.raises(UnknownNameError, match="hardware must be one of"):
        find_machine("h1000", processors=1, workers=1, utilisation=None)
    with pytest.raises(ConfigError, match="share of the peak"):
        find_machine("h100", processors=1, workers=1, utilisation=1.5)
    for options in ({"processors": 4, "utilisation": None}, {"processors": None, "utilisation": 0.3}):
        with pytest.raises(ConfigError, match="got a CPU"):
            find_machine("cpu", workers=1, **options)


@pytest.mark.parametrize("name", hardware)
def test_every_processor_has_a_source_and_sane_numbers(name: str):
    one = hardware[name]
    assert one.source
    assert one.bf16 > one.fp32 > 1e13
    assert 1e11 < one.bandwidth < 1e13
    assert str(one.memory // 10**9) in one.title
