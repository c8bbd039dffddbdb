"""`neftune mt-bench` from a checkpoint to a table, against a real HTTP server."""

import json
from pathlib import Path
from typing import Any

import pytest

from neftune.cli.main import main
from tests.bench_files import real_files, small_bench, write_lines
from tests.evaluation.preference.hostile import HostileServer, completion
from tests.tiny import make_checkpoint


def verdict(body: dict[str, Any]) -> dict[str, Any]:
    """4 for first turns, 8 for second ones; no score for the reference answer of math's first turn."""
    asked = body["messages"][-1]["content"]
    assert body["temperature"] == 0
    assert body["max_tokens"] == 2048
    if asked.startswith("a {door}"):
        return completion("I cannot say.")
    return completion("Rating: [[8]]" if asked.count("|") > 2 else "Rating: [[4]]")


def command(tmp_path: Path, url: str, *more: str) -> list[str]:
    return [
        "mt-bench", str(tmp_path / "data"), "--checkpoint", str(tmp_path / "model"), "--template", "plain",
        "--max-new-tokens", "5", "--judge-model", "judge-1", "--base-url", url, "--out", str(tmp_path / "out"), *more,
    ]  # fmt: skip


def test_from_checkpoint_to_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_checkpoint(tmp_path / "model")
    small_bench(tmp_path / "data")
    with HostileServer(answer=verdict, mood=lambda body, before: "500" if before == 0 else "answer") as server:
        assert main(command(tmp_path, server.url, "--json")) == 0
        shown = capsys.readouterr()
        means = json.loads(shown.out)["model"]
        assert means["overall"] == {
            "score": pytest.approx(20 / 3), "num_scored": 3, "num_unparsed": 1, "num_missing": 0, "num_out_of_range": 0,
        }  # fmt: skip
        assert [turn["score"] for turn in means["turns"]] == [4.0, 8.0]
        assert means["categories"]["math"][1]["score"] is None
        assert "greedy in every category" in shown.err
        num_asked = len(server.asked)
        assert num_asked == 8
        assert main(command(tmp_path, server.url)) == 0
        assert len(server.asked) == num_asked, "nothing is asked for twice"
        again = capsys.readouterr()
    assert "0 calls to judge-1, 4 graded before" in again.err
    assert "answers made before" in again.err
    row = next(line for line in again.out.splitlines() if line.startswith("math"))
    assert row.split() == ["math", "8.00", "-", "8.00", "1", "1", "0"]
    make_checkpoint(tmp_path / "model", width=16)
    without_judge = [
        part for part in command(tmp_path, "http://127.0.0.1:1/v1") if part not in ("--judge-model", "judge-1")
    ]
    assert main(without_judge) == 0
    assert "answers made before" not in capsys.readouterr().err, "other weights under the same name answer anew"
    (judgments,) = (tmp_path / "out" / "mt-bench").glob("*-judgments.jsonl")
    rows = [json.loads(line) for line in judgments.read_text().splitlines()]
    assert [row["score"] for row in rows] == [4, -1, 8, 8]
    assert rows[0]["judge"] == ["judge-1", "single-v1"]
    assert main(["mt-bench", str(tmp_path / "data"), "--judgments", str(judgments)]) == 0
    assert capsys.readouterr().out == again.out


def test_a_judge_that_refuses_ends_with_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    small_bench(tmp_path / "data")
    rows = [{"question_id": key, "model_id": "ours", "turns": ["a", "b"]} for key in (81, 111)]
    answers = write_lines(tmp_path / "answers.jsonl", rows)
    no = (401, {"error": {"message": "no such key"}})
    with HostileServer(mood=lambda body, before: no) as server:
        asked = ["mt-bench", str(tmp_path / "data"), "--answers", str(answers), "--judge-model", "j"]
        asked += ["--base-url", server.url, "--out", str(tmp_path / "out")]
        assert main(asked) == 1
    shown = capsys.readouterr()
    assert "no such key" in shown.err
    row = next(line for line in shown.out.splitlines() if line.startswith("all"))
    assert row.split() == ["all", "-", "-", "-", "0", "0", "4"]
    assert main([*asked, "--dry-run"]) == 0
    assert "which hat is red ?|a" in capsys.readouterr().out


def test_the_real_verdicts(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = ("--questions", "--judge-prompts", "--references")
    files = [part for name, path in zip(names, real_files(shared), strict=True) for part in (name, str(path))]
    judgments = shared / "data" / "chat_eval" / "mt_bench_judgments_gpt-4_single.jsonl.gz"
    assert main(["mt-bench", str(tmp_path), *files, "--judgments", str(judgments)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("all ")]
    assert ["all", "6.10", "6.73", "5.47", "160", "0", "0"] in rows
    assert rows[-1] == ["all", "7.40", "7.62", "4.67", "40", "120", "0"]


def test_wrong_input_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    small_bench(tmp_path / "data")
    base = ["mt-bench", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*base, "--checkpoint", str(tmp_path / "none"), "--judge-model", "gpt-4"]) == 2
    assert "OPENAI_API_KEY must hold the key" in capsys.readouterr().err, "said before anything is generated"
    assert main([*base, "--answers", str(tmp_path / "a.jsonl")]) == 2
    assert "Give --judge-model" in capsys.readouterr().err
    assert main(["mt-bench", str(tmp_path), "--answers", str(tmp_path / "a.jsonl"), "--judge-model", "x"]) == 2
    assert "must be FastChat's llm_judge/data" in capsys.readouterr().err
