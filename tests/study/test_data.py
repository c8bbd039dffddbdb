"""A prompt file as the test part: all of it asked, nothing of it trained on."""

import json
from pathlib import Path

import pytest

from neftune.config import DataConfig
from neftune.errors import ConfigError, DataError
from neftune.study.data import load_run_data
from neftune.study.identity import data_fingerprint
from tests.tiny import make_examples


def config(folder: Path, prompts: list[dict[str, object]], **changes: object) -> DataConfig:
    path = folder / "prompts.json"
    path.write_text(json.dumps(prompts))
    sizes = {"num_train": 24, "num_heldout": 16, "num_test": 16}
    source = str(make_examples(folder / "examples.jsonl"))
    return DataConfig.model_validate({"source": source, "test_prompts": str(path), **sizes, **changes})


def test_the_prompts_are_the_test_part_in_their_order(tmp_path: Path):
    prompts = [{"instruction": "Why ?", "output": "So .", "dataset": "a"}, {"instruction": "How ?", "input": "cake"}]
    data = load_run_data(config(tmp_path, prompts))
    first, second = data.parts["test"]
    assert (first.turns[0].content, first.reference, first.tags) == ("Why ?", "So .", {"dataset": "a"})
    assert (second.input, second.reference) == ("cake", "")
    assert (len(data.parts["train"]), len(data.parts["heldout"])) == (24, 16)
    assert data.counts["shared_with_test_prompts_dropped"] == 0


def test_what_the_prompts_ask_is_not_trained_on(tmp_path: Path):
    plain = load_run_data(config(tmp_path, [{"instruction": "Why ?"}]))
    asked = plain.parts["train"][3].turns[0].content
    (tmp_path / "asked").mkdir()
    data = load_run_data(config(tmp_path / "asked", [{"instruction": f"  {asked.upper()} "}]))
    assert [one.id for one in data.parts["train"]] == [
        one.id for one in plain.parts["train"] if one.turns[0].content != asked
    ]
    assert data.counts["shared_with_test_prompts_dropped"] == 1


def test_other_prompts_are_other_data(tmp_path: Path):
    (tmp_path / "b").mkdir()
    first = data_fingerprint(config(tmp_path, [{"instruction": "Why ?"}]))
    assert first != data_fingerprint(config(tmp_path / "b", [{"instruction": "Why not ?"}]))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "at least one row"),
        ([{"instruction": "Why ?"}, {"instruction": "Why ?"}], "a second time"),
        ([{"output": "So ."}], "must have the texts instruction"),
    ],
)
def test_prompt_files_that_cannot_be_used(tmp_path: Path, prompts: list[dict[str, object]], message: str):
    with pytest.raises(DataError, match=message):
        load_run_data(config(tmp_path, prompts))


def test_a_missing_file_and_the_microworld(tmp_path: Path):
    with pytest.raises(DataError, match="must be a file"):
        load_run_data(config(tmp_path, [], test_prompts=str(tmp_path / "none.json")))
    with pytest.raises(ConfigError, match="with the microworld"):
        load_run_data(config(tmp_path, [{"instruction": "Why ?"}], source="microworld", num_train=40))


def test_ids_that_differ_do_not_make_one_prompt_two(tmp_path: Path):
    twice = [{"id": 1, "instruction": "Why ?"}, {"id": 2, "instruction": "Why ?"}]
    with pytest.raises(DataError, match="must stand in a file once"):
        load_run_data(config(tmp_path, twice))
