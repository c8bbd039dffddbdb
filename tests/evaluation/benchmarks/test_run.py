"""Scores per example and aggregates equal lm-eval's own, and nothing around the model changes."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import neftune
from neftune.errors import ConfigError, ModelError
from neftune.evaluation.benchmarks.lm import quiet
from neftune.evaluation.benchmarks.results import Benchmark, plain
from neftune.evaluation.benchmarks.run import RunOptions, run_benchmarks
from neftune.evaluation.benchmarks.tasks import TaskOptions, load_tasks
from tests.evaluation.benchmarks.published_rows import arc_native, write_every_subject, write_lines, write_published
from tests.tiny_tokenizers import byte_level

NAMES = ("arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2")


def tiny_llama(seed: int = 0, max_length: int = 4096) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(byte_level()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=max_length,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_published(tmp_path_factory.mktemp("data"))
    return write_every_subject(folder)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture(scope="module")
def ours(model: LlamaForCausalLM, data: Path) -> dict[str, Benchmark]:
    return run_benchmarks(model, byte_level(), NAMES, tasks=TaskOptions(data=data), options=RunOptions(limit=2))


def lm_evals_own(model: Any, names: Sequence[str], folder: Path, limit: int | None) -> dict[str, Any]:
    """One call of lm-eval's simple_evaluate for everything at once."""
    import lm_eval.evaluator
    import lm_eval.tasks
    from lm_eval.models.huggingface import HFLM

    loaded = load_tasks(names, TaskOptions(data=folder))
    lm = HFLM(pretrained=model, tokenizer=byte_level(), batch_size=3)
    with pytest.MonkeyPatch.context() as patch:
        # It asks pip, conda and the drivers for their versions, which takes ten seconds.
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)
        tasks = [task.built for task in loaded]
        none = lm_eval.tasks.TaskManager(include_defaults=False)
        found = lm_eval.evaluator.simple_evaluate(lm, tasks=tasks, limit=limit, task_manager=none)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def theirs(model: LlamaForCausalLM, data: Path) -> dict[str, Any]:
    return lm_evals_own(model, NAMES, data, 2)


def test_both_backends_say_the_same(model: LlamaForCausalLM, data: Path, ours: dict[str, Benchmark]) -> None:
    options = RunOptions(limit=2, backend="hf", batch_size=3)
    plainly = run_benchmarks(model, byte_level(), NAMES, tasks=TaskOptions(data=data), options=options)
    for name, one in plainly.items():
        assert one.scores.example_ids == ours[name].scores.example_ids
        for metric, values in one.scores.values.items():
            assert values == pytest.approx(ours[name].scores.values[metric], abs=1e-4), (name, metric)


def test_aggregates_equal_lm_evals(ours: dict[str, Benchmark], theirs: dict[str, Any]) -> None:
    found = {name: one for benchmark in ours.values() for name, one in benchmark.aggregates.items()}
    assert set(found) == set(theirs["results"])
    assert len(found) == 57 + 4 + 1 + 3
    for name, expected in theirs["results"].items():
        assert set(found[name]) == set(expected)
        for metric, value in plain(expected).items():
            assert found[name][metric] == (pytest.approx(value, abs=1e-5) if name == "truthfulqa_mc2" else value)


def test_every_example_has_lm_evals_numbers(ours: dict[str, Benchmark], theirs: dict[str, Any]) -> None:
    for name, benchmark in ours.items():
        tasks = [task for task in theirs["samples"] if task == name or task.startswith(f"{name}_")]
        samples = [sample for task in tasks for sample in theirs["samples"][task]]
        values = benchmark.scores.values
        assert len(samples) == len(benchmark.scores.example_ids) == benchmark.counts["examples"]
        for index, sample in enumerate(samples):
            lls = np.array([response[0] for response in sample["filtered_resps"]])
            shares = np.exp(lls - lls.max()) / np.exp(lls - lls.max()).sum()
            assert values["choice"][index] == lls.argmax()
            assert values["confidence"][index] == pytest.approx(shares.max(), abs=1e-4)
            assert values["margin"][index] == pytest.approx(np.diff(np.sort(lls))[-1], abs=1e-4)
            if name == "truthfulqa_mc2":
                assert values["mc2"][index] == pytest.approx(sample["acc"], abs=1e-5)
                assert "gold_loglikelihood" not in values
            else:
                assert values["acc"][index] == sample["acc"]
                assert values["gold_loglikelihood"][index] == pytest.approx(lls[sample["target"]], abs=1e-4)
        assert ("acc_norm" in values) == (name in ("arc_challenge", "hellaswag"))


def test_what_a_benchmark_says_of_itself(ours: dict[str, Benchmark]) -> None:
    assert {name: (one.metric, one.num_shots) for name, one in ours.items()} == {
        "arc_challenge": ("acc_norm", 25),
        "hellaswag": ("acc_norm", 10),
        "mmlu": ("acc", 5),
        "truthfulqa_mc2": ("mc2", 0),
    }
    mmlu = ours["mmlu"]
    assert mmlu.counts == {"examples": 114, "requests": 456, "truncated_requests": 0}
    assert mmlu.aggregates["mmlu"]["acc,none"] == pytest.approx(np.mean(mmlu.scores.values["acc"]))
    assert len({tags["task"] for tags in mmlu.tags.values()}) == 57
    assert all(one.startswith(f"{mmlu.tags[one]['task']}/") for one in mmlu.scores.example_ids)
    assert ours["arc_challenge"].notes == (
        "ARC-Challenge-Train.jsonl has 30 rows, the published one 1,119",
        "ARC-Challenge-Test.jsonl has 4 rows, the published one 1,172",
    )


def test_ids_follow_the_question_not_its_place(model: LlamaForCausalLM, tmp_path: Path) -> None:
    rows = [arc_native(number) for number in (1, 2, 3, 2)]
    options = {"arc_challenge": 0}
    found = {}
    for name, order in (("forward", rows), ("backward", rows[::-1])):
        folder = tmp_path / name
        write_lines(folder / "ARC-Challenge-Test.jsonl", order)
        tasks = TaskOptions(data=folder, shots=options)
        found[name] = run_benchmarks(model, byte_level(), ["arc_challenge"], tasks=tasks)["arc_challenge"].scores
    forward, backward = found["forward"], found["backward"]
    assert len(set(forward.example_ids)) == 4
    assert set(forward.example_ids) == set(backward.example_ids)
    assert forward.example_ids[3] == f"{forward.example_ids[1]}#2"
    paired = dict(zip(backward.example_ids, backward.values["gold_loglikelihood"], strict=True))
    assert [paired[one] for one in forward.example_ids] == pytest.approx(forward.values["gold_loglikelihood"], abs=1e-4)


def test_noise_is_off_and_everything_is_as_before(data: Path) -> None:
    model = tiny_llama()
    tasks, names = TaskOptions(data=data), ["truthfulqa_mc2"]
    clean = run_benchmarks(model, byte_level(), names, tasks=tasks)["truthfulqa_mc2"].scores
    neftune.attach(model, alpha=100)
    model.train()
    model.lm_head.eval()
    tokenizer = byte_level()
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    expected = random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)

    noisy = run_benchmarks(model, tokenizer, names, tasks=tasks)["truthfulqa_mc2"].scores

    assert noisy == clean
    assert (random.random(), np.random.rand(), torch.rand(())) == expected  # noqa: NPY002
    assert model.training
    assert model.model.training
    assert not model.lm_head.training
    assert torch.get_default_dtype() == torch.float32
    assert tokenizer.pad_token is None


def test_progress_reaches_the_number_of_examples(model: LlamaForCausalLM, data: Path) -> None:
    told: list[tuple[int, int]] = []
    tasks = TaskOptions(data=data)
    run_benchmarks(
        model, byte_level(), ["truthfulqa_mc2", "arc_challenge"], tasks=tasks, on_progress=lambda *one: told.append(one)
    )
    assert told[-1] == (8, 8)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {1, 2, 3} <= {done for done, _ in told}


def test_nothing_is_printed(model: LlamaForCausalLM, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_benchmarks(model, byte_level(), ["hellaswag", "mmlu_anatomy"], tasks=TaskOptions(data=data))
    assert capfd.readouterr() == ("", "")


def test_a_context_too_short_is_counted(data: Path) -> None:
    options = TaskOptions(data=data)
    found = run_benchmarks(tiny_llama(max_length=256), byte_level(), ["arc_challenge"], tasks=options)["arc_challenge"]
    assert found.counts == {"examples": 4, "requests": 16, "truncated_requests": 16}
    assert found.notes[-1] == "16 of 16 requests were longer than the model's context and lost their beginning"
    with pytest.raises(ModelError, match=r"room for the longest answer \(\d+ tokens\), got a context of 4 tokens"):
        run_benchmarks(tiny_llama(max_length=4), byte_level(), ["arc_challenge"], tasks=options)


def test_one_token_too_many_is_counted(data: Path) -> None:
    (task,) = load_tasks(["truthfulqa_mc2"], TaskOptions(data=data))
    with quiet():
        task.leaves["truthfulqa_mc2"].build_all_requests()
    requests = [request.args for request in task.leaves["truthfulqa_mc2"].instances]
    lengths = sorted(len(byte_level().encode(context + answer)) for context, answer in requests)
    # The last token is never fed, so a request of max_length + 1 tokens is whole.
    for max_length in (lengths[-1] - 1, lengths[-1] - 2):
        names, tasks = ["truthfulqa_mc2"], TaskOptions(data=data)
        found = run_benchmarks(tiny_llama(max_length=max_length), byte_level(), names, tasks=tasks)["truthfulqa_mc2"]
        expected = sum(length > max_length + 1 for length in lengths)
        assert found.counts["truncated_requests"] == expected
        assert (expected > 0) == (max_length == lengths[-1] - 2)


def test_finished_tasks_are_kept_for_the_same_model_only(data: Path, tmp_path: Path) -> None:
    tasks, options = TaskOptions(data=data), RunOptions(cache=tmp_path / "kept", limit=1)
    stopped = RuntimeError("killed")
    told: list[int] = []

    def stop(done: int, total: int) -> None:
        told.append(done)
        if done == 20:
            raise stopped

    model = tiny_llama()
    with pytest.raises(RuntimeError, match="killed"):
        run_benchmarks(model, byte_level(), ["mmlu"], tasks=tasks, options=options, on_progress=stop)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.json")}
    assert len(kept) in (19, 20)
    went_on = run_benchmarks(model, byte_level(), ["mmlu"], tasks=tasks, options=options)
    fresh = run_benchmarks(model, byte_level(), ["mmlu"], tasks=tasks, options=RunOptions(limit=1))
    assert went_on == fresh
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.json")}
    assert len(after) == 57
    assert {name: after[name] for name in kept} == kept

    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 0.01
    other = run_benchmarks(model, byte_level(), ["mmlu"], tasks=tasks, options=options)
    assert other["mmlu"].scores != fresh["mmlu"].scores
    assert len(list((tmp_path / "kept").glob("*.json"))) == 2 * 57


def test_a_kill_inside_a_task_loses_no_log_likelihood(data: Path, tmp_path: Path) -> None:
    tasks, options = TaskOptions(data=data), RunOptions(cache=tmp_path)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    forwards: list[int] = []
    model = tiny_llama()
    model.model.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(KeyboardInterrupt):
        run_benchmarks(model, byte_level(), ["arc_challenge"], tasks=tasks, options=options, on_progress=stop)
    assert not list(tmp_path.glob("*.json"))
    before = len(forwards)
    went_on = run_benchmarks(model, byte_level(), ["arc_challenge"], tasks=tasks, options=options)
    took = len(forwards) - before
    fresh = run_benchmarks(model, byte_level(), ["arc_challenge"], tasks=tasks)
    assert took < len(forwards) - before - took
    assert fresh["arc_challenge"].scores.values["choice"] == went_on["arc_challenge"].scores.values["choice"]


def test_a_model_that_cannot_share_says_so(data: Path) -> None:
    model = tiny_llama()
    model.set_attn_implementation("eager")
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    found = run_benchmarks(model, byte_level(), ["truthfulqa_mc2"], tasks=TaskOptions(data=data))["truthfulqa_mc2"]
    assert any(note.startswith("scored by lm-eval's plain backend, because ") for note in found.notes), found.notes


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"batch_size": 0}, {"backend": "vllm"}])
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RunOptions(**wrong)


def test_real_data_equals_lm_eval(model: LlamaForCausalLM, shared: Path) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    tasks = TaskOptions(data=shared / "data" / "leaderboard_tasks")
    names = ["arc_challenge", "truthfulqa_mc2"]
    found = run_benchmarks(model, byte_level(), names, tasks=tasks, options=RunOptions(limit=8))
    leaves = {name: leaf for task in load_tasks(names, tasks) for name, leaf in task.leaves.items()}
    for leaf in leaves.values():
        leaf.set_fewshot_seed(1234)
    expected = evaluate(HFLM(pretrained=model, tokenizer=byte_level(), batch_size=3), {"tasks": leaves}, limit=8)
    assert expected is not None
    for name in names:
        assert found[name].aggregates[name] == pytest.approx(plain(expected["results"][name]), abs=1e-6)
