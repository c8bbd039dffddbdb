"""docs/migration.md says what the stored benchmark found."""

import json

import pytest
from benchmarks.migration import PAGE, ROOT, render, stored_result

RECORD = json.loads(stored_result().read_text())
ALPACA = {(row["layout"], row["size"]): row for row in RECORD["data"]["Alpaca"]["rows"]}


def test_the_page_is_what_the_stored_result_renders():
    stored = stored_result().relative_to(ROOT).as_posix()
    assert PAGE.read_text() == render(RECORD, stored=stored), "run python -m benchmarks.migration --page"


@pytest.mark.parametrize("name", RECORD["data"])
def test_larger_batches_and_rows_got_less_and_short_documents_least(name):
    rows = RECORD["data"][name]["rows"]
    for layout in ("padded", "padding-free", "packed"):
        means = [row["mean"] for row in rows if row["layout"] == layout]
        assert means == sorted(means, reverse=True)
    assert all(row["shortest"] <= row["mean"] <= row["longest"] for row in rows if row["size"] > 1)


def test_rows_of_one_document_are_exact_and_alpaca_is_what_the_method_says():
    assert ALPACA["padded", 1]["mean"] == pytest.approx(1, abs=0.005)
    for key, mean in {("padded", 4): 0.80, ("padded", 16): 0.67, ("padded", 32): 0.63, ("packed", 2048): 0.24}.items():
        assert ALPACA[key]["mean"] == pytest.approx(mean, abs=0.02)
