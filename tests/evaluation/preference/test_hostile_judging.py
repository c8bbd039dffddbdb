"""AlpacaEval's 805 prompts judged by a server that does everything wrong, and by a driver that is killed."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from neftune.cli.main import main
from neftune.evaluation.preference.pairing import is_swapped
from neftune.records import Answer, RunRecord
from neftune.study.store import write_json
from tests.evaluation.preference.hostile import MOODS, HostileServer, completion, digest, is_malformed, moody

KEY = "sk-secret-0123456789"


def write_sides(folder: Path, instructions: list[str]) -> tuple[Path, Path]:
    """Two files of outputs; every 40th prompt has the same answer on both sides."""
    paths = (folder / "base.json", folder / "noisy.json")
    for side, path in enumerate(paths):
        rows = [
            {"instruction": text, "output": "xy"[side] * (5 + i % 7 * (side + 1)) if i % 40 else "same", "idx": i}
            for i, text in enumerate(instructions)
        ]
        path.write_text(json.dumps(rows))
    return paths


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> tuple[Path, Path]:
    file = shared / "data" / "alpaca_eval" / "instructions.jsonl"
    instructions = [json.loads(line)["instruction"] for line in file.read_text().splitlines()]
    return write_sides(tmp_path_factory.mktemp("sides"), instructions)


def command(sides: tuple[Path, Path], url: str, out: Path, *more: str) -> list[str]:
    asked = ["judge", *map(str, sides), "--model", "judge-1", "--base-url", url, "--out", str(out)]
    return [*asked, *more]


def stored(out: Path) -> dict[str, str]:
    """What the store holds, by key."""
    database = sqlite3.connect(out / "judged" / "verdicts.sqlite")
    try:
        return dict(database.execute("SELECT key, completion FROM answers"))
    finally:
        database.close()


def annotations(out: Path) -> list[dict[str, Any]]:
    (path,) = (out / "judged").glob("*.json")
    return json.loads(path.read_text())


def check_verdicts(rows: list[dict[str, Any]], asked: list[dict[str, Any]]) -> None:
    """Every preference is what the server said of the prompt that held both answers, turned back."""
    said = {digest(body): body for body in asked}
    unparsed = sum(is_malformed(body) for body in said.values())
    assert sum(row["preference"] is None for row in rows) == unparsed > 0
    assert all(row.get("reason") == "malformed" for row in rows if row["preference"] is None)
    for row in rows:
        assert row["is_swapped"] == is_swapped(row["instruction"], 0)
        if row["output_1"] == row["output_2"]:
            assert (row["preference"], row["reason"], row["raw_completion"]) == (1.5, "same_outputs", None)
        elif row["preference"] is not None:
            first = 1 if row["raw_completion"].startswith("[{'model': 'm', 'rank': 1}") else 2
            assert row["preference"] == (3 - first if row["is_swapped"] else first)


def test_all_805_are_judged_under_every_fault_and_none_is_asked_for_again(
    tmp_path: Path, sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    more = ("--timeout", "1", "--concurrency", "32", "--key-variable", "JUDGE_KEY")
    with HostileServer(moody(MOODS, 0.08)) as server:
        assert main(command(sides, server.url, tmp_path, *more)) == 0
        asked = len(server.asked)
        rows = annotations(tmp_path)
        assert len(rows) == 805
        # A loaded machine may answer after the deadline, so count prompts and not answers.
        asked_about = {digest(body) for body in server.asked}
        assert asked_about == {digest(body) for body in server.answered}
        assert len(asked_about) == len(stored(tmp_path)) == 805 - 21
        check_verdicts(rows, server.asked)
        shown = capsys.readouterr()
        assert main(command(sides, server.url, tmp_path, *more)) == 0
        assert len(server.asked) == asked, "an answer that is there was asked for again"
        assert annotations(tmp_path) == rows
        assert capsys.readouterr().out == shown.out
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert "21 same_outputs" in shown.err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()
    assert KEY not in shown.out + shown.err


def test_another_model_template_setting_or_seed_is_asked_anew(tmp_path: Path):
    sides = write_sides(tmp_path, [f"Say {i}." for i in range(12)])
    template = tmp_path / "mine.txt"
    template.write_text("{instruction} m: {output_1} M: {output_2}")
    with HostileServer() as server:
        base = command(sides, server.url, tmp_path)
        for more in ([], ["--model", "judge-2"], ["--template", str(template)], ["--temperature", "1"]):
            before = len(server.asked)
            assert main([*base, *more]) == 0
            assert len(server.asked) - before == 11
        before = len(server.asked)
        assert main([*base, "--seed", "3"]) == 0
        turned = sum(is_swapped(f"Say {i}.", 0) != is_swapped(f"Say {i}.", 3) for i in range(1, 12))
        assert len(server.asked) - before == turned > 0, "the sides that did not turn are there already"
        assert main(base) == 0
        assert len(server.asked) - before == turned
    assert len(list((tmp_path / "judged").glob("*.json"))) == 5


@pytest.mark.slow
def test_a_driver_killed_at_random_loses_nothing_and_asks_for_nothing_twice(
    tmp_path: Path, sides: tuple[Path, Path], request: pytest.FixtureRequest
):
    """After each SIGKILL: what was stored is still there and is never asked for again.

    Requests on their way at a kill (at most as many as the concurrency) may be asked again: nobody has their answer.
    """
    log = tmp_path / "server.log"
    script = Path(__file__).with_name("hostile.py")
    server = subprocess.Popen(
        [sys.executable, str(script), str(log), "0.1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdin is not None
    request.addfinalizer(lambda: (server.kill(), server.wait(), server.stdout.close(), server.stdin.close()))
    url = server.stdout.readline().strip()
    arguments = [sys.executable, "-m", "neftune.cli.main"]
    arguments += command(sides, url, tmp_path, "--concurrency", "4", "--attempts", "12")
    rng, kept, kills, known = random.Random(0), dict[str, str](), 0, 0
    while True:
        lines = log.read_text().splitlines() if log.exists() else []
        with (tmp_path / "driver.err").open("w") as errors:
            driver = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors)
        target = known + rng.randint(20, 180)
        while driver.poll() is None and (not log.exists() or log.read_text().count("answered") < target):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        if driver.poll() is not None:
            break
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        kills += 1
        time.sleep(0.1)
        now = stored(tmp_path)
        assert now.items() >= kept.items(), "a verdict was lost"
        kept, known = now, log.read_text().count("answered")
        del lines
    assert driver.returncode == 0, (tmp_path / "driver.err").read_text()
    assert kills >= 4
    rows = annotations(tmp_path)
    assert len(rows) == 805
    final = stored(tmp_path)
    assert final.items() >= kept.items()
    assert len(final) == 784
    answered = Counter(
        entry["request"] for entry in map(json.loads, log.read_text().splitlines()) if entry["what"] == "answered"
    )
    assert len(answered) == 784
    assert sum(answered.values()) - 784 <= 4 * kills, "more was answered twice than can have been on its way"


def test_a_server_that_dies_leaves_what_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sides = write_sides(tmp_path, [f"Say {i}." for i in range(60)])
    with HostileServer() as server:
        server.mood = lambda body, before: "answer" if len(server.answered) < 30 else "close"
        base = command(sides, server.url, tmp_path, "--attempts", "1", "--concurrency", "2", "--server", "mine")
        assert main(base) == 1
    said = capsys.readouterr().err
    assert "with nobody answered meanwhile" in said
    assert "the same command goes on from there" in said
    assert 30 <= len(stored(tmp_path)) <= 32
    assert len(annotations(tmp_path)) == len(stored(tmp_path)) + 2
    with HostileServer() as server:  # the same server on another port, by its name
        assert main(command(sides, server.url, tmp_path, "--server", "mine")) == 0
        assert len(server.asked) == 58 - (len(annotations(tmp_path)) - 2 - len(server.asked))
    assert len(annotations(tmp_path)) == 60


def test_prompts_the_judge_cannot_read_are_null_and_the_others_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sides = write_sides(tmp_path, [f"Say {i}." + "!" * 900 * (i == 7) for i in range(30)])
    too_long = (400, {"error": {"message": "maximum context length is 9", "code": "context_length_exceeded"}})

    def mood(body: dict[str, Any], before: int) -> Any:
        return too_long if "Say 5." in body["messages"][1]["content"] else "answer"

    with HostileServer(mood) as server:
        assert main(command(sides, server.url, tmp_path, "--max-prompt-chars", "900")) == 0
        assert len(server.asked) == 30 - 1 - 1
    rows = {row["idx"]: row for row in annotations(tmp_path)}
    assert len(rows) == 30
    assert (rows[5]["preference"], rows[5]["reason"]) == (None, "prompt_too_long")
    assert "maximum context length is 9" in rows[5]["said"]
    assert (rows[7]["preference"], rows[7]["said"]) == (None, "not sent: longer than 900 characters")
    assert "2 prompt_too_long" in capsys.readouterr().err


def test_a_cap_on_the_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sides = write_sides(tmp_path, [f"Say {i}." for i in range(40)])
    prices = ("--price-prompt", "1000000", "--price-completion", "0")
    answer = lambda body: completion("[{'model': 'm', 'rank': 1}, {'model': 'M', 'rank': 2}]", prompt_tokens=1000)  # noqa: E731
    with HostileServer(answer=answer) as server:
        base = command(sides, server.url, tmp_path, *prices, "--concurrency", "2")
        assert main([*base, "--dry-run"]) == 0
        shown = capsys.readouterr()
        assert "39 calls to judge-1, 0 answered before" in shown.err
        assert "cost: up to" in shown.err
        assert "--- system" in shown.out
        assert main([*base, "--max-cost", "10"]) == 2
        assert "must cost no more than --max-cost 10, got an estimate" in capsys.readouterr().err
        assert not server.asked
        # The estimate, about 220 a call, is far below what the server then counts.
        assert main([*base, "--max-cost", "12000"]) == 1
        assert "the next call could pass the cap of 12000" in capsys.readouterr().err
        assert 10 <= len(server.asked) == len(stored(tmp_path)) <= 12
        assert main([*base, "--max-cost", "60000"]) == 0
        assert len(server.asked) == 39


def test_logprobs_by_a_server_that_gives_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sides = write_sides(tmp_path, [f"Say {i}." for i in range(30)])
    answer = lambda body: completion("m", {"m": -0.1, "M": -2.4, "The": -8.0})  # noqa: E731
    with HostileServer(answer=answer) as server:
        assert main(command(sides, server.url, tmp_path, "--judge", "logprobs", "--json")) == 0
        assert {(body["max_tokens"], body["top_logprobs"]) for body in server.asked} == {(1, 5)}
    shown = json.loads(capsys.readouterr().out)
    assert shown["verdicts"] == {"read": 29, "same_outputs": 1}
    for row in annotations(tmp_path):
        expected = 1.5 if row["idx"] == 0 else 1 + (0.9088770389851438 if row["is_swapped"] else 0.0911229610148561)
        assert row["preference"] == pytest.approx(expected, abs=1e-12)


def test_logprobs_by_a_server_that_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sides = write_sides(tmp_path, [f"Say {i}." for i in range(30)])
    with HostileServer() as server:
        assert main(command(sides, server.url, tmp_path, "--judge", "logprobs", "--concurrency", "1")) == 1
        assert len(server.asked) == 1
    assert "without the log-probabilities that were asked for" in capsys.readouterr().err


def test_two_runs_head_to_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("run-a", "run-b"):
        answers = {
            part: [Answer(f"{part}{i}", f"Q{i}", f"{name} {'!' * i}", "ref", 1, True) for i in range(num)]
            for part, num in (("test", 12), ("heldout", 3))
        }
        record = RunRecord(name, {}, (), None, 0.0, {}, answers, {}, {}, {}, "")
        write_json(tmp_path / name / "result.json", asdict(record))
    sides = (tmp_path / "run-a", tmp_path / "run-b")
    with HostileServer() as server:
        assert main(command(sides, server.url, tmp_path / "out")) == 0
        assert main(command(sides, server.url, tmp_path / "out2", "--part", "heldout")) == 0
        assert main(command(sides, server.url, tmp_path / "out", "--part", "train")) == 2
        assert main(command((sides[0], tmp_path), server.url, tmp_path / "out")) == 2
    rows = annotations(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"test{i}" for i in range(12)]
    assert {(row["generator_1"], row["generator_2"]) for row in rows} == {("run-a", "run-b")}
    assert len(annotations(tmp_path / "out2")) == 3
    said = capsys.readouterr().err
    assert "must have answers of the part 'train', got test, heldout" in said
    assert "a folder must be an evaluated run with its result.json" in said


def test_bad_outputs_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good, broken = write_sides(tmp_path, ["Say 1.", "Say 2."])
    for text, said in [
        ('[{"instruction": "Say 1.", "output": "x", "idx": 0}]', "both sides must answer the same prompts"),
        ('[{"instruction": "Say 1."}]', "must have the texts instruction and output"),
        ('{"instruction": "Say 1.", "output": "x"}\n{oops', "broken JSON"),
        ("", "must hold at least one row"),
    ]:
        broken.write_text(text)
        assert main(command((good, broken), "http://127.0.0.1:9/v1", tmp_path)) == 2
        assert said in capsys.readouterr().err
    broken.write_text(good.read_text().replace("x", " "))
    assert main(command((good, broken), "http://127.0.0.1:9/v1", tmp_path, "--dry-run")) == 0
    assert "1 empty outputs in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--judge", "rankin"],
            "pairwise judge must be one of logprobs, ranking; got 'rankin'. Did you mean 'ranking'?",
        ),
        (["--base-url", "localhost"], "base_url must be like"),
        (["--max-cost", "3"], "a cap on the cost needs prices"),
        (["--extra", "[1]"], "--extra takes a JSON object"),
        (["--top-logprobs", "3"], "--top-logprobs is for the judge logprobs"),
        (["--limit", "0"], "--limit must be >= 1"),
        (["--template", "none.txt"], "template must be a readable text"),
        (["--key-variable", "NO_SUCH_KEY"], "the environment variable NO_SUCH_KEY must hold the key"),
    ],
)
def test_wrong_input_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str):
    sides = write_sides(tmp_path, ["Say 1.", "Say 2."])
    assert main(command(sides, "http://127.0.0.1:9/v1", tmp_path, *more)) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
