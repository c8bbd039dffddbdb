"""docs/exactness.md says what the stored benchmark found, and that is what METHOD's table says."""

import json

import pytest
from benchmarks.exactness_table import PAGE, ROOT, render, stored_result

RECORD = json.loads(stored_result().read_text())
CELLS = [pytest.param(cell, id=f"{cell['group']}: {cell['name']}") for cell in RECORD["cells"]]


def test_the_page_is_what_the_stored_result_renders():
    stored = stored_result().relative_to(ROOT).as_posix()
    assert PAGE.read_text() == render(RECORD, stored=stored), "run python -m benchmarks.exactness_table"


@pytest.mark.parametrize("cell", CELLS)
def test_ours_is_right_and_theirs_is_wrong_where_stated(cell):
    if isinstance(cell["right"], str):
        assert cell["ours"].startswith(cell["right"])
    else:
        assert cell["ours"] == pytest.approx(cell["right"], abs=0.01)
        assert cell["ours"] == 0 or cell["right"] != 0 or "correlation" in cell["name"], "exactly 0"
    match cell["stated"]:
        case "noised" | "not 0":
            assert cell["theirs"] > 0
        case str(text):
            assert cell["theirs"].startswith(text)
        case float(number):
            assert cell["theirs"] == pytest.approx(number, rel=0.01, abs=0.02)


def test_every_situation_of_the_method_is_there():
    groups = {cell["group"].split(",")[0] for cell in RECORD["cells"]}
    assert groups == {
        "padded with 400 tokens",
        "Alpaca padded",
        "Alpaca packed",
        "Alpaca padding-free",
        "encoder-decoders",
        "embedding scaled inside its module",
        "training mode without gradients",
        "misuse",
        "other implementations",
        "two data-parallel ranks",
        "two context-parallel ranks",
    }
    assert {"torch", "transformers", "trl", "peft", "neftune"} <= RECORD["versions"].keys()
