"""`neftune study RECIPE --dry-run` prints what a study takes and starts nothing."""

import json
from pathlib import Path

import pytest
import yaml

from neftune.cli.main import main
from tests.tiny import make_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(make_recipe(tmp_path)))
    return path


def test_a_person_sees_it_in_twenty_lines(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert main(["study", str(recipe), "--dry-run", "--hardware", "a100", "--gpus", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert not out.exists()
    assert shown.isascii()
    lines = shown.splitlines()
    assert len(lines) <= 20
    assert lines[0].startswith("study tiny: 4 runs to do (main 4); nothing was started")
    said = " ".join(shown.split())
    for words in ("machine 2 x NVIDIA A100 SXM 80 GB", "Counted: with", "assumed: 30%", "memory 1 GB of 80 GB", "disk"):
        assert words in said


def test_settings_on_the_command_line_count(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def estimate(*more: str) -> dict[str, object]:
        command = ["study", str(recipe), "--dry-run", "--json", "--hardware", "h100", "--out", str(tmp_path / "out")]
        assert main([*command, *more]) == 0
        return json.loads(capsys.readouterr().out)

    once, twice = estimate(), estimate("--train.epochs", "4")
    assert twice["total"]["train_tokens"] == 2 * once["total"]["train_tokens"]
    half = estimate("--mfu", "0.15")
    assert half["total"]["seconds"] > once["total"]["seconds"]
    stated = estimate("--tokens-per-example", "20")
    assert stated["kinds"][0]["tokens_exact"] is False


def test_what_does_not_fit_ends_with_1(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shape = Path(__file__).parents[2] / "recipes/shapes/llama-2-7b"
    command = ["study", str(recipe), "--dry-run", "--hardware", "a5000", "--out", str(tmp_path / "out")]
    assert main([*command, "--model.path", str(shape)]) == 1
    assert "IT DOES NOT FIT. It would with --" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hardware", "h100"], "--hardware is for a dry run"),
        (["--json"], "--json is for a dry run"),
        (["--dry-run", "--hardware", "h1000"], "hardware must be one of"),
        (["--dry-run", "--hardware", "h100", "--gpus", "0"], "--gpus must be 1 or more"),
        (["--dry-run", "--hardware", "h100", "--tokens-per-example", "0"], "--tokens-per-example must be 1 or more"),
        (["--dry-run", "--model.path", "meta-llama/Llama-2-7b-hf"], "config.json alone is enough"),
        (["--dry-run", "--data.source", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_starts(
    options: list[str], message: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["study", str(recipe), "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
