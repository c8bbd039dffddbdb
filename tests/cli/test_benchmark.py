"""`neftune benchmark` end to end: run, adapters, compare, go on, and wrong input."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from neftune.cli.main import main
from neftune.evaluation.benchmarks.files import read_benchmarks
from tests.evaluation.benchmarks.published_rows import write_published
from tests.evaluation.benchmarks.test_run import tiny_llama
from tests.tiny_tokenizers import byte_level


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_llama().save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    settings = LoraConfig(r=2, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = get_peft_model(tiny_llama(), settings)
    network.save_pretrained(str(model.parent / "adapter"))
    return model.parent / "adapter"


def result_in(out: Path) -> Path:
    (found,) = (out / "benchmarks").glob("*.json")
    return found


def test_run_then_compare(
    data: Path, model: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--tasks", "arc_challenge,truthfulqa_mc2", "--data", str(data)]
    assert main(["benchmark", "--model", str(model), *common, "--out", str(tmp_path / "base")]) == 0
    shown = capsys.readouterr().out
    base = result_in(tmp_path / "base")
    found = read_benchmarks(base)
    value, error = found["arc_challenge"].headline
    assert found["arc_challenge"].aggregates["arc_challenge"]["acc_norm_stderr,none"] == error
    assert (
        f"arc_challenge               25       4  acc_norm                {100 * value:.2f} ± {100 * error:.2f}"
        in shown
    )
    assert "note: arc_challenge: ARC-Challenge-Train.jsonl has 30 rows, the published one 1,119" in shown
    assert f"result: {base}" in shown

    with_adapter = ["benchmark", "--model", str(model), "--adapter", str(adapter), *common]
    assert main([*with_adapter, "--out", str(tmp_path / "ours"), "--compare", str(base), "--margin", "0.5"]) == 0
    shown = capsys.readouterr().out
    ours = result_in(tmp_path / "ours")
    assert ours.name.startswith("tiny+adapter-")
    assert read_benchmarks(ours)["truthfulqa_mc2"].scores != found["truthfulqa_mc2"].scores
    assert "truthfulqa_mc2: not shown to be equivalent within ± 50 points" in shown

    assert main(["benchmark", str(ours), "--compare", str(base), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["compared"]) == {"arc_challenge", "truthfulqa_mc2"}
    arc = told["compared"]["arc_challenge"]
    assert arc["equivalence"]["num_examples"] == 4
    assert arc["baseline"] == value
    assert told["benchmarks"]["arc_challenge"]["num_shots"] == 25

    assert main(["benchmark", str(base), "--compare", str(base), "--json"]) == 0
    assert "NaN" not in (text := capsys.readouterr().out)
    assert json.loads(text)["compared"]["truthfulqa_mc2"]["equivalence"]["bound"] is None
    assert main(["benchmark", str(base), "--compare", str(base)]) == 0
    shown = capsys.readouterr().out
    assert "truthfulqa_mc2: every difference is the same" in shown
    assert "nan" not in shown


def test_a_result_read_back_is_the_result(data: Path, model: Path, tmp_path: Path) -> None:
    from neftune.evaluation.benchmarks.run import run_benchmarks
    from neftune.evaluation.benchmarks.tasks import TaskOptions

    command = ["benchmark", "--model", str(model), "--tasks", "truthfulqa_mc2", "--data", str(data)]
    assert main([*command, "--out", str(tmp_path)]) == 0
    expected = run_benchmarks(tiny_llama(), byte_level(), ["truthfulqa_mc2"], tasks=TaskOptions(data=data))
    assert read_benchmarks(result_in(tmp_path)) == expected


def test_the_same_command_goes_on(data: Path, model: Path, tmp_path: Path) -> None:
    command = ["benchmark", "--model", str(model), "--data", str(data), "--out", str(tmp_path), "--tasks"]
    assert main([*command, "truthfulqa_mc2"]) == 0
    kept = next((tmp_path / "benchmarks" / "finished").glob("*.json"))
    before = kept.stat().st_mtime_ns
    assert main([*command, "truthfulqa_mc2,arc_challenge"]) == 0
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --model to run, or a result file to read"),
        (["--model", "m", "r.json"], "and not both"),
        (["nothing.json"], "a benchmark result must be a file that `neftune benchmark` wrote, got nothing.json"),
        (["--model", "MODEL", "--margin", "0.1"], "--margin is for a comparison"),
        (["--model", "MODEL", "--shots", "arc_challenge"], "--shots must be TASK=N, as in arc_challenge=0"),
        (["--model", "MODEL", "--data", "nowhere"], "must exist, got nowhere"),
        (["--model", "MODEL", "--adapter", "MODEL"], "adapters must be a folder with adapter_config.json"),
        (["--model", "MODEL", "--limit", "0"], "limit must be 1 or more"),
        (["--model", "MODEL", "--backend", "vllm"], "backend must be one of neftune, hf"),
        (["--model", "MODEL", "--device", "quantum"], "--device must be a device of this machine, got 'quantum'"),
    ],
)
def test_wrong_input(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(model) if one == "MODEL" else one for one in arguments]
    assert main(["benchmark", *given, "--out", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert message in " ".join(shown.split())
    assert "Traceback" not in shown


def test_results_that_cannot_be_compared(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "--model", str(model), "--data", str(data)]
    for name, more in {
        "few": ["--tasks", "arc_challenge", "--shots", "arc_challenge=1"],
        "many": ["--tasks", "arc_challenge"],
        "other": ["--tasks", "truthfulqa_mc2"],
    }.items():
        assert main([*command, *more, "--out", str(tmp_path / name)]) == 0
    results = {name: str(result_in(tmp_path / name)) for name in ("few", "many", "other")}
    capsys.readouterr()
    assert main(["benchmark", results["few"], "--compare", results["many"]]) == 2
    assert "arc_challenge must have equal shots in both results, got 25 and 1" in capsys.readouterr().err
    assert main(["benchmark", results["few"], "--compare", results["other"]]) == 2
    assert "results must share a benchmark to be compared" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["benchmark", results["few"], "--limit", "5", "--dtype", "bfloat16"]) == 2
    assert "is read as it is, got --limit, --dtype" in capsys.readouterr().err
