"""The examples on the pages about extending run as they stand."""

import re
from pathlib import Path

import pytest

from neftune.data.datasets import data_sets
from neftune.data.formats import formats
from neftune.data.prompts import templates
from neftune.evaluation.variants import variants
from neftune.training.regularizers import regularizers

PAGES = Path(__file__).parents[2] / "docs" / "extend"


@pytest.mark.parametrize("page", ["prompt_template", "data_set", "variant", "regularizer"])
def test_the_examples_on_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for registry in (templates, data_sets, formats, variants, regularizers):
        monkeypatch.setattr(registry, "_entries", dict(registry))
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), flags=re.DOTALL)
    assert blocks
    exec("\n".join(blocks), {})
