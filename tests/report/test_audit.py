from pathlib import Path

import pytest
import torch
from benchmarks.pipelines import measure, padded

from neftune.errors import ConfigError, StoreError
from neftune.report.audit import audit_figure, write_audit_figure


def test_the_figure_holds_every_length_group_and_the_rule_at_one(tmp_path: Path):
    torch.manual_seed(0)
    result = measure("transformers", padded(list(range(5, 65)), 4))
    figure = audit_figure(result)
    (line,) = figure["data"]
    assert line["y"] == [group.mean for group in result.find().groups]
    assert [count for count, *_ in line["customdata"]] == [6] * 10
    assert figure["layout"]["shapes"][0]["y0"] == figure["layout"]["shapes"][0]["y1"] == 1
    assert figure["layout"]["title"]["text"].endswith("<br>padding is noised")
    text = write_audit_figure(result, tmp_path / "audit.html").read_text()
    assert "nominal alpha" in text
    with pytest.raises(ConfigError, match=r"the figure is an HTML file, got .*audit.png. Name it .html."):
        write_audit_figure(result, tmp_path / "audit.png")
    with pytest.raises(StoreError, match="the figure must be writable"):
        write_audit_figure(result, tmp_path / "none" / "audit.html")
