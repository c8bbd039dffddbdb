"""docs/scale.md shows what its command prints."""

import shlex
from pathlib import Path

import pytest

from neftune.cli.main import main

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    page = (ROOT / "docs" / "scale.md").read_text()
    command = page.split("```bash\n", 1)[1].split("\n", 1)[0]
    shown = page.split("```text\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == shown
