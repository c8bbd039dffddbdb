"""From a data configuration to examples in parts."""

import json
from collections import Counter
from pathlib import Path

import pytest

from neftune.config import DataConfig
from neftune.data.datasets import data_sets, load_data, read_examples
from neftune.data.formats import formats
from neftune.data.prompts import templates
from neftune.errors import DataError, UnknownNameError
from neftune.records import PARTS


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def row(number: int) -> dict[str, str]:
    return {"instruction": f"question {number}", "input": "", "output": f"answer {number}"}


def config(source: Path | str, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"source": str(source), "num_heldout": 2, "num_test": 3, **settings})


def test_a_file_becomes_parts_of_the_sizes_asked_for(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [row(n) for n in range(20)])
    data = load_data(config(path, num_train=5))
    assert [len(data.parts[part]) for part in PARTS] == [5, 2, 3]
    assert data.counts["read"] == 20
    assert data.counts["unused"] == 10
    assert len(load_data(config(path)).parts["train"]) == 15


def test_the_fingerprint_is_that_of_the_examples_in_their_parts(tmp_path: Path):
    rows = [row(n) for n in range(20)]
    data = load_data(config(write(tmp_path / "a.jsonl", rows)))
    assert load_data(config(write(tmp_path / "b.jsonl", rows[::-1]))) == data
    for other in (
        config(tmp_path / "a.jsonl", seed=1),
        config(tmp_path / "a.jsonl", num_train=5),
        config(write(tmp_path / "c.jsonl", rows[1:])),
    ):
        assert load_data(other).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{broken\n", "broken JSON"),
        ({"instruction": "q"}, "field output or response is required, got instruction"),
        ({"instruction": "q", "output": ""}, "output must hold a response, got an empty one"),
        ({"instruction": 3, "output": "a"}, "instruction must be text, got int"),
    ],
)
def test_a_bad_row_stops_with_its_place_or_is_skipped_and_counted(tmp_path: Path, bad: object, said: str):
    path = write(tmp_path / "a.jsonl", [row(0), row(1), bad, row(2)])
    with pytest.raises(DataError, match=rf"a\.jsonl:3: .*{said}.*data\.skip_bad=true"):
        read_examples(path)
    examples, counts = read_examples(path, skip_bad=True)
    assert [example.reference for example in examples] == ["answer 0", "answer 1", "answer 2"]
    assert counts == {"read": 3, "bad_lines_skipped": 1, "leading_assistant_turns_dropped": 0}


def test_a_bad_first_row_does_not_hide_the_format_of_the_others(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{"text": "x"}, row(0)])
    assert len(read_examples(path, skip_bad=True).examples) == 1


@pytest.mark.parametrize("rows", [[], ["\n\n"]])
def test_an_empty_data_set_is_an_error(tmp_path: Path, rows: list[object]):
    with pytest.raises(DataError, match=r"at least one example, got none from .*a\.jsonl"):
        load_data(config(write(tmp_path / "a.jsonl", rows)))


def test_a_data_set_of_bad_rows_alone_is_an_error_that_shows_the_first(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}])
    with pytest.raises(DataError, match=r"got none from .*2 bad rows skipped.*a\.jsonl:1: the fields must fit"):
        load_data(config(path, skip_bad=True))


def test_too_few_examples_are_an_error_that_says_how_many_are_needed(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [row(n) for n in (0, 0, 1, 2, 3, 4, 5)])
    with pytest.raises(
        DataError, match=r"needs 8 examples .*num_train 3 . num_heldout 2 . num_test 3., got 7, of which 1 are dup"
    ):
        load_data(config(path, num_train=3))
    with pytest.raises(DataError, match=r"needs 10 examples .*at least 1 for training"):
        load_data(config(path, num_heldout=6))


def test_an_explicit_format_is_obeyed_and_a_wrong_name_refused(tmp_path: Path):
    both = {**row(0), "prompt": "p", "completion": "c"}
    path = write(tmp_path / "a.jsonl", [both])
    with pytest.raises(DataError, match="fit alpaca and prompt_completion"):
        read_examples(path)
    assert read_examples(path, format="prompt_completion").examples[0].reference == "c"
    with pytest.raises(UnknownNameError, match="Did you mean 'alpaca'"):
        read_examples(path, format="alpacca")


def test_files_of_one_folder_may_differ_in_format(tmp_path: Path):
    write(tmp_path / "a.jsonl", [row(0)])
    write(tmp_path / "b.jsonl", [{"prompt": "p", "completion": "c"}])
    assert [example.reference for example in read_examples(tmp_path).examples] == ["answer 0", "c"]


def test_tags_come_from_fields_that_group(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{**row(0), "category": "open_qa", "score": 3}])
    assert read_examples(path).examples[0].tags == {"category": "open_qa"}


def test_a_named_data_set_is_read_from_its_place_on_the_hub(monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []

    def load_dataset(name: str, data_files: str | None = None) -> dict[str, list[dict[str, object]]]:
        asked.append((name, data_files))
        return {
            "train": [{"id": "1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]
        }

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read_examples("sharegpt").examples[0].reference == "a"
    assert asked == [(data_sets["sharegpt"].hub_id, data_sets["sharegpt"].data_files)]


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(DataError, match=r"no file or folder alpacca.*Did you mean 'alpaca'"):
        read_examples("alpacca")


@pytest.mark.parametrize("name", list(data_sets))
def test_every_named_data_set_is_described(name: str):
    entry = data_sets[name]
    assert entry.hub_id.count("/") == 1
    assert entry.format in formats
    assert entry.template in templates
    assert entry.licence
    assert entry.source.startswith("https://")
    assert entry.num_rows > 0


def test_the_microworld_is_handed_its_configuration(monkeypatch: pytest.MonkeyPatch):
    microworld = pytest.importorskip("neftune.data.microworld")
    monkeypatch.setattr(microworld, "load_data", lambda given: given, raising=False)
    asked = DataConfig(source="microworld", seed=3)
    assert load_data(asked) is asked


REAL = {
    "alpaca_52k": (51_974, 28),
    "evol_instruct_sample": (1_981, 0),
    "lima_1k": (1_029, 0),
    "sharegpt_sample": (998, 13),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_is_read_whole(shared: Path, name: str):
    path = shared / "data" / "train" / f"{name}.jsonl.gz"
    examples, counts = read_examples(path, skip_bad=True)
    assert (counts["read"], counts["bad_lines_skipped"]) == REAL[name]
    assert len(examples) == counts["read"]
    assert all(example.turns[-1].role == "assistant" for example in examples)


def test_the_first_bad_row_of_alpaca_is_named_with_its_line(shared: Path):
    with pytest.raises(DataError, match=r"alpaca_52k\.jsonl\.gz:285: output must hold a response"):
        read_examples(shared / "data" / "train" / "alpaca_52k.jsonl.gz")


def test_sharegpt_is_read_as_its_readme_describes_it(shared: Path):
    examples, counts = read_examples(shared / "data" / "train" / "sharegpt_sample.jsonl.gz", skip_bad=True)
    assert counts["leading_assistant_turns_dropped"] >= 330
    lengths = Counter(len(example.turns) for example in examples)
    assert max(lengths) > 20
