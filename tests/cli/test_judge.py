"""`neftune judge` on the command line: settings that cannot be obeyed, and text that is broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neftune.cli.main import main


def write(path: Path, text: str) -> str:
    path.write_text(json.dumps([{"instruction": "Say half a letter: \ud800", "output": text}]))
    return str(path)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--max-tokens", "0", "--max-tokens must be >= 1"),
        ("--top-logprobs", "0", "--top-logprobs must be >= 1"),
        ("--max-prompt-chars", "-1", "--max-prompt-chars must be >= 1"),
        ("--temperature", "nan", "--temperature must be a finite number"),
        ("--temperature", "-1", "--temperature must be a finite number"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(
    tmp_path: Path, option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
):
    sides = [write(tmp_path / "a.json", "x"), write(tmp_path / "b.json", "y")]
    asked = ["--model", "m", "--judge", "logprobs", "--base-url", "http://127.0.0.1:9/v1", "--out", str(tmp_path)]
    assert main(["judge", *sides, *asked, "--dry-run", option, value]) == 2
    assert said in capsys.readouterr().err


def test_text_that_is_no_utf8_is_shown(tmp_path: Path):
    sides = [write(tmp_path / "a.json", "x"), write(tmp_path / "b.json", "y")]
    asked = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--out", str(tmp_path), "--dry-run"]
    command = [sys.executable, "-W", "ignore", "-m", "neftune.cli.main", "judge", *sides, *asked]
    utf8 = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=utf8)
    assert (done.returncode, "half a letter: \\ud800" in done.stdout) == (0, True), done.stderr
