"""Answers on their way into a file, killed at every byte."""

import json
from pathlib import Path

import pytest

from neftune.errors import ConfigError, DataError
from neftune.evaluation.answer_file import AnswerFile, PartAnswer

SETTINGS = {"model": "m", "limit": 4}
ANSWERS = [
    PartAnswer(0, "one\ntwo", 3, True),
    PartAnswer(2, "\ud800 ü", None, None),
    PartAnswer(1, "", 0, False, "refused"),
]


def test_killed_at_any_byte_it_keeps_every_whole_answer_and_goes_on(tmp_path: Path):
    path = tmp_path / "a.json"
    with AnswerFile(path, 3, SETTINGS) as file:
        for answer in ANSWERS:
            file.add(answer)
    part = tmp_path / "a.json.part"
    whole = part.read_bytes()
    for cut in range(len(whole) + 1):
        part.write_bytes(whole[:cut])
        kept = max(whole[:cut].count(b"\n") - 1, 0)
        with AnswerFile(path, 3, SETTINGS) as file:
            assert list(file.answers.values()) == ANSWERS[:kept]
            assert file.missing == sorted({0, 1, 2} - {answer.place for answer in ANSWERS[:kept]})
            for answer in ANSWERS[kept:]:
                file.add(answer)
        assert part.read_bytes() == whole


def test_the_file_appears_whole_and_the_part_goes(tmp_path: Path):
    for name, read in (
        ("a.json", json.loads),
        ("a.jsonl", lambda text: [json.loads(line) for line in text.splitlines()]),
    ):
        with AnswerFile(tmp_path / name, 1, SETTINGS) as file:
            file.finish([{"output": "\ud800 ü\n"}])
        assert read((tmp_path / name).read_text(encoding="utf-8")) == [{"output": "? ü\n"}]
        assert not (tmp_path / f"{name}.part").exists()
        with pytest.raises(ConfigError, match="is there already"):
            AnswerFile(tmp_path / name, 1, SETTINGS)


def test_settings_without_an_answer_refuse_no_others(tmp_path: Path):
    path = tmp_path / "a.json"
    with AnswerFile(path, 3, SETTINGS):
        pass
    with AnswerFile(path, 3, SETTINGS | {"limit": 5}) as file:
        file.add(ANSWERS[0])
    with pytest.raises(ConfigError, match=r"1 answers under other settings \(limit\)"):
        AnswerFile(path, 3, SETTINGS)


def test_what_is_no_part_is_left_alone(tmp_path: Path):
    part = tmp_path / "a.json.part"
    for text in ("not json\n", '{"model": "m", "limit": 4}\n{"rows": 1}\n', "[1]\n"):
        part.write_text(text)
        with pytest.raises((DataError, ConfigError)):
            AnswerFile(tmp_path / "a.json", 1, SETTINGS)
        assert part.read_text() == text
