"""The command line on wrong input: one clear message, the right exit code, no traceback."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from neftune.cli.listing import REGISTRIES
from neftune.cli.main import main
from tests.tiny import make_recipe


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_recipe(tmp_path_factory.mktemp("tiny"))


def run(tmp_path: Path, recipe: dict[str, Any], *options: str, verb: str = "study") -> int:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return main([verb, str(path), "--out", str(tmp_path / "out"), *options])


def message(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return " ".join(shown.split())


def test_a_typo_in_the_recipe(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, {**tiny, "train": {"learning_rat": 1}}) == 2
    assert "'train.learning_rat' is not a setting. Did you mean 'train.learning_rate'?" in message(capsys)


def test_a_typo_on_the_command_line(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, tiny, "--train.learnin-rate", "1")
    assert ended.value.code == 2
    assert "--train.learning-rate" in message(capsys)


def test_a_rule_that_nothing_could_satisfy(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, tiny, "--study.decision.judge-by", "lc_win_rate") == 2
    assert "deciding by 'lc_win_rate' needs a judge, got evaluate.judge null" in message(capsys)
    assert run(tmp_path, tiny, "--study.decision.judge-by", "los") == 2
    assert "must have a better direction, got 'los'" in message(capsys)


def test_a_setting_that_is_an_axis(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, tiny, "--noise.alpha", "15") == 2
    assert "--noise.alpha is an axis of this study" in message(capsys)


def test_training_a_study_without_saying_which_arm(
    tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    assert run(tmp_path, tiny, verb="train") == 2
    assert "say how much noise" in message(capsys).lower()


def test_an_output_file_that_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "result.json").write_text("{}")
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 1
    assert "must hold a run's result" in message(capsys)


def test_a_missing_recipe(capsys: pytest.CaptureFixture[str]):
    assert main(["study", "none.yaml"]) == 2
    assert "none.yaml: No such file or directory" in message(capsys)


def test_a_missing_data_file(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, {**tiny, "data": {**tiny["data"], "source": str(tmp_path / "none.jsonl")}}) == 2
    assert "none.jsonl" in message(capsys)


def test_a_broken_line(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    lines = Path(tiny["data"]["source"]).read_text().splitlines()
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([*lines[:2], '{"prompt": "x', *lines[3:]]) + "\n")
    assert run(tmp_path, {**tiny, "data": {**tiny["data"], "source": str(broken)}}) == 2
    shown = message(capsys)
    assert "broken.jsonl" in shown
    assert "3" in shown
    assert "skip" in shown


def test_an_empty_data_set(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert run(tmp_path, {**tiny, "data": {**tiny["data"], "source": str(empty)}}) == 2
    assert "empty.jsonl" in message(capsys)


def test_an_output_folder_that_cannot_be_written(
    tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "out").write_text("a file where the folder should be")
    assert run(tmp_path, tiny) == 2
    assert "output folder must be writable" in message(capsys)


@pytest.mark.slow
def test_a_tokenizer_without_an_end(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    import shutil

    folder = tmp_path / "no-eos"
    shutil.copytree(tiny["model"]["path"], folder)
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"eos_token": "<eos>"', '"eos_token": null'))
    assert run(tmp_path, {**tiny, "model": {"path": str(folder)}}) == 2
    assert "end-of-sequence" in message(capsys)


@pytest.mark.slow
def test_a_learning_rate_that_diverges(tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    study = {"scientific": {"noise.alpha": [0]}, "seeds": [0]}
    assert run(tmp_path, {**tiny, "study": study}, "--train.learning-rate", "1e30") == 1
    shown = message(capsys)
    assert "learning rate" in shown
    assert "report: " in shown or (tmp_path / "out/studies/tiny/report.html").is_file()


@pytest.mark.slow
def test_train_then_evaluate_then_compare_then_list(
    tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    folders = [tmp_path / "base", tmp_path / "noisy"]
    for folder, alpha in zip(folders, ("0", "5"), strict=True):
        assert run(tmp_path, tiny, "--folder", str(folder), "--noise.alpha", alpha, verb="train") == 0
        assert (folder / "model" / "config.json").is_file()
        assert main(["evaluate", "--run", str(folder)]) == 0
    assert "noise realised: alpha" in capsys.readouterr().err
    of_a_study = tmp_path / "out" / "runs" / "abc"
    shutil.copytree(folders[0], of_a_study)
    (tmp_path / "out" / "studies").mkdir(exist_ok=True)
    before = (of_a_study / "result.json").read_bytes()
    assert main(["evaluate", "--run", str(of_a_study), "--evaluate.max-new-tokens", "3"]) == 2
    assert (of_a_study / "result.json").read_bytes() == before
    capsys.readouterr()
    assert main(["compare", str(folders[0]), str(folders[1])]) == 0
    assert "loss" in capsys.readouterr().out
    assert main(["list", "runs", "--out", str(tmp_path)]) == 0


def test_an_option_that_a_verb_does_not_take(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["compare", "a", "b", "--typo"])
    assert ended.value.code == 2
    assert "compare takes no '--typo'" in message(capsys)


@pytest.mark.parametrize("what", REGISTRIES)
def test_every_registry_can_be_listed(what: str, capsys: pytest.CaptureFixture[str]):
    assert main(["list", what]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 1


def test_help_names_every_verb_and_where_to_start(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for word in (
        "study",
        "train",
        "evaluate",
        "audit",
        "compare",
        "report",
        "list",
        "quickstart.yaml",
        "neftune.attach",
    ):
        assert word in shown
