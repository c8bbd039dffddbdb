"""The house rules that a machine can hold."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neftune

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "src" / "neftune").rglob("*.py"))
TEXTS = [*MODULES, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]


def test_public_names_exist_and_are_complete():
    for name in neftune.__all__:
        assert getattr(neftune, name) is not None
    assert set(neftune._HOMES) | {"__version__"} == set(neftune.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'atach'; it has .*attach"):
        neftune.atach  # noqa: B018


def test_importing_neftune_imports_no_torch():
    code = "import sys, neftune; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


READERS = ("records", "study.store", "analysis.effects", "analysis.verdict", "report.page", "report.audit")


@pytest.mark.parametrize("module", READERS)
def test_reading_results_imports_no_torch(module: str):
    code = f"import sys, neftune.{module}; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_modules_are_small_documented_and_finished(path: Path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is"
    assert text.count("\n") <= 400, "a module has at most 400 lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documentation = len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert (node.end_lineno or 0) - node.lineno - documentation < 50, (
                f"{node.name} has at most 50 lines of code"
            )
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError|\bpickle\.load|weights_only=False", text)
    assert path.stem not in {"utils", "common", "helpers", "misc"}


def test_the_readme_tree_is_true():
    readme = (ROOT / "README.md").read_text()
    block = readme.split("```text\nsrc/neftune/", 1)[1].split("```", 1)[0]
    named = set(re.findall(r"^\s*(\w+\.py|\w+/)", block, re.MULTILINE))
    for name in named:
        found = any(path.name == name or name.rstrip("/") in path.parts for path in MODULES)
        assert found or (ROOT / name).is_dir() or (ROOT / "tests" / name).is_dir(), f"the README names {name}"
    for path in MODULES:
        if path.name != "__init__.py":
            assert path.name in block, f"the README's tree lacks {path.relative_to(ROOT)}"


def test_the_changelog_has_the_version():
    assert f"## {neftune.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_constraints_pin_every_requirement():
    pins = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(
        r'"([A-Za-z0-9_-]+)(?:>=|==)', project.split("dependencies = ", 1)[1].split("[project.scripts]")[0]
    )
    assert {name.lower() for name in wanted} - {"neftune"} <= pins
