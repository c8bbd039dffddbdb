"""One run with benchmarks: every question's scores are in its record, and a killed one goes on."""

from pathlib import Path

import pytest

from neftune.config import RunConfig
from neftune.records import to_json
from neftune.study.identity import evaluation_fingerprint
from neftune.study.run import run_one
from neftune.study.store import read_record, write_json
from tests.evaluation.benchmarks.published_rows import write_published
from tests.tiny import make_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    recipe = make_recipe(tmp_path)
    values = {name: recipe[name] for name in ("model", "data", "train", "evaluate")}
    data = str(write_published(tmp_path / "tasks"))
    benchmarks = {"tasks": ["truthfulqa_mc2"], "data": data, "limit": 2}
    return RunConfig.model_validate({**values, "evaluate": {**values["evaluate"], "benchmarks": benchmarks}})


def test_a_run_has_every_questions_score(config: RunConfig, tmp_path: Path):
    stages = []
    record = run_one("one", config, tmp_path / "run", report=lambda values: stages.append(values["stage"]))
    scores = record.scores["truthfulqa_mc2"]
    assert len(scores.example_ids) == len(scores.values["mc2"]) == 2
    assert "truthfulqa_mc2" not in record.answers
    assert record.counts["truthfulqa_mc2_examples"] == 2
    assert stages[-1] == "benchmarks"
    assert set(scores.example_ids) <= set(record.tags)
    write_json(tmp_path / "result.json", to_json(record))
    assert read_record(tmp_path / "result.json").scores["truthfulqa_mc2"] == scores
    assert list((tmp_path / "run" / "benchmarks").iterdir())


def test_other_task_files_are_another_run(config: RunConfig, tmp_path: Path):
    before = evaluation_fingerprint(config.evaluate)
    assert before
    file = next((tmp_path / "tasks").rglob("*.json*"))
    file.write_text(file.read_text() + "\n")
    assert evaluation_fingerprint(config.evaluate) != before
    none = config.evaluate.model_copy(
        update={"benchmarks": config.evaluate.benchmarks.model_copy(update={"tasks": []})}
    )
    assert evaluation_fingerprint(none) == ""
