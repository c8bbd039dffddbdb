"""Every `neftune` command that README, docs and help texts print is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from neftune.cli.main import OWN_MODULES, _parser, _split, verb_help

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines that begin with `neftune`, continued lines joined, comments cut."""
    lines = text.replace("\\\n", " ").splitlines()
    found = (re.sub(r"\s#\s.*$", "", line).strip() for line in lines)
    return [line for line in found if line.startswith("neftune ") and "..." not in line]


PRINTED = [
    (str(page.relative_to(ROOT)), command)
    for page in PAGES
    for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
    for command in commands(block)
]
HELPED = [(f"{verb} --help", command) for verb in OWN_MODULES for command in commands(verb_help(verb))]


def test_there_are_commands_to_look_at():
    assert len(PRINTED) >= 10
    assert len(HELPED) >= 10


@pytest.mark.parametrize(("where", "command"), [*PRINTED, *HELPED])
def test_a_printed_command_is_taken(where: str, command: str):
    words = shlex.split(command)[1:]
    if words[0] == "lm-eval":
        return  # lm-eval's own arguments, run by tests/cli/test_lm_eval.py
    plain, dotted = _split(words)
    options, unknown = _parser().parse_known_args(plain)
    assert not unknown or options.takes_knobs, f"{where}: {command}"
    assert not dotted or options.takes_knobs, f"{where}: {command}"


@pytest.mark.parametrize("command", ["neftune judge a b --modle x", "neftune no-such-verb"])
def test_a_wrong_one_would_be_seen(command: str):
    plain, _ = _split(shlex.split(command)[1:])
    with pytest.raises((SystemExit, AssertionError)):
        assert not _parser().parse_known_args(plain)[1]
