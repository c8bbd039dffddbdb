"""`neftune generate`: every prompt once, whatever happens on the way."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from neftune.cli.main import main
from neftune.data.prompts import render_prompt
from neftune.evaluation.answer_file import AnswerFile, PartAnswer
from neftune.evaluation.generation import generate
from neftune.evaluation.variants import cut_to_length
from neftune.records import Example, Turn
from tests.evaluation.preference.hostile import HostileServer, completion, moody
from tests.tiny import COLOURS, THINGS, make_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROWS = [
    {"idx": number, "dataset": "colours", "instruction": f"what colour is the {colour} {thing} ?"}
    for number, (colour, thing) in enumerate((colour, thing) for colour in COLOURS[:4] for thing in THINGS[:5])
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkpoint(tmp_path_factory.mktemp("model") / "small")
    model = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 20
    model.save_pretrained(folder)
    # An end that some answers meet early and others do not.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    free = generate(model, tokenizer, [f"{row['instruction']}\n" for row in ROWS], max_new_tokens=12)
    tokenizer.eos_token = free[0].text.split()[3]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def options(checkpoint: Path, prompts: Path, output: Path, *more: str) -> list[str]:
    required = ["--model", str(checkpoint), "--prompts", str(prompts), "--output", str(output)]
    return ["generate", *required, "--template", "plain", "--max-new-tokens", "12", *more]


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())


def message(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return " ".join(shown.split())


def test_answers_are_the_model_s_in_alpaca_eval_s_format(checkpoint: Path, prompts: Path, tmp_path: Path, capsys: Any):
    assert main(options(checkpoint, prompts, tmp_path / "a.json", "--repetition-penalty", "1.2", "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    rows = read(tmp_path / "a.json")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    texts = [
        render_prompt(
            Example.make([Turn("user", row["instruction"]), Turn("assistant", "")]),
            template="plain",
            tokenizer=tokenizer,
        )
        for row in ROWS
    ]
    wanted = generate(model, tokenizer, texts, max_new_tokens=12, repetition_penalty=1.2)
    assert [row["output"] for row in rows] == [one.text for one in wanted]
    assert [(row["tokens"], row["ended"]) for row in rows] == [(one.num_tokens, one.ended) for one in wanted]
    assert all(row["generator"] == "small" for row in rows)
    assert [{key: row[key] for key in ROWS[0]} for row in rows] == ROWS
    assert len({row["output"] for row in rows}) > 1
    assert (summary["answers"], summary["generator"], summary["prompts_too_long"]) == (len(ROWS), "small", 0)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "a.json",
        "prompts.jsonl",
    ]


def test_a_killed_run_goes_on_and_generates_nothing_twice(
    checkpoint: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    assert main(options(checkpoint, prompts, tmp_path / "whole.json")) == 0
    arguments = options(checkpoint, prompts, tmp_path / "killed.json", "--batch-size", "1")
    part = tmp_path / "killed.json.part"
    slow = "import time, neftune.evaluation.answer_file as f; add = f.AnswerFile.add\n"
    slow += "f.AnswerFile.add = lambda self, one: (add(self, one), time.sleep(0.2))\n"
    slow += f"from neftune.cli.main import main; main({arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.DEVNULL, env={**os.environ})
    while not part.exists() or part.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.json").exists()
    with part.open("ab") as file:
        file.write(b'{"place": 19, "text": "torn')
    kept = part.read_bytes().count(b"\n") - 1
    assert 3 <= kept < len(ROWS)
    added: list[int] = []
    add = AnswerFile.add
    monkeypatch.setattr(AnswerFile, "add", lambda self, one: (added.append(one.place), add(self, one))[1])
    assert main(arguments) == 0
    assert f"{kept} answers were there before and are kept." in message(capsys)
    assert len(set(added)) == len(added) == len(ROWS) - kept
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_other_settings_are_not_mixed_in(checkpoint: Path, prompts: Path, tmp_path: Path, capsys: Any):
    output = tmp_path / "a.json"
    arguments = options(checkpoint, prompts, output)
    part = tmp_path / "a.json.part"

    def begin(**changes: Any) -> None:
        with AnswerFile(output, len(ROWS), changes) as file:
            file.add(PartAnswer(0, "kept"))

    begin(model="another")
    assert main(arguments) == 2
    assert "holds 1 answers under other settings (" in message(capsys)
    assert part.exists()
    part.unlink()
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "is there already. Remove it, or name another file" in message(capsys)


def test_a_model_trained_anew_under_the_same_name_is_another(tmp_path: Path, prompts: Path, capsys: Any):
    from neftune.evaluation.answering import Checkpoint

    folder = make_checkpoint(tmp_path / "model")
    before = Checkpoint(str(folder)).settings()
    assert Checkpoint(str(folder)).settings() == before
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert Checkpoint(str(folder)).settings() != before


def test_two_processes_do_not_write_one_file(checkpoint: Path, prompts: Path, tmp_path: Path, capsys: Any):
    output = tmp_path / "a.json"
    with AnswerFile(output, 1, {}):
        assert main(options(checkpoint, prompts, output)) == 1
    assert "is being written by another process" in message(capsys)


def test_variants_ask_otherwise_hold_back_and_cut(checkpoint: Path, prompts: Path, tmp_path: Path):
    def answers(name: str, *more: str) -> list[dict[str, Any]]:
        assert main(options(checkpoint, prompts, tmp_path / f"{name}.json", *more)) == 0
        return read(tmp_path / f"{name}.json")

    plain = answers("plain")
    held = answers("held", "--variant", "held_back=9")
    assert any(row["tokens"] < 9 for row in plain)
    assert all(row["tokens"] >= 9 for row in held)
    assert {row["generator"] for row in held} == {"small+held_back=9"}
    assert [row["output"] for row in answers("long", "--variant", "long")] != [row["output"] for row in plain]
    short = [row | {"output": row["output"][:7], "generator": "base"} for row in plain]
    (tmp_path / "base.json").write_text(json.dumps(short))
    cut = answers("cut", "--variant", "truncated", "--baseline-outputs", str(tmp_path / "base.json"))
    assert [row["output"] for row in cut] == [
        cut_to_length(row["output"], base["output"]) for row, base in zip(plain, short, strict=True)
    ]
    assert any(row["output"] for row in cut)


@pytest.mark.parametrize(
    ("model", "more", "name"),
    [("runs/alpha5/model", [], "alpha5"), ("org/big", [], "big"), ("org/big", ["--generator", "mine"], "mine")],
)
def test_who_wrote_the_answers(model: str, more: list[str], name: str, prompts: Path, tmp_path: Path):
    arguments = ["generate", "--model", model, "--prompts", str(prompts), "--output", str(tmp_path / "a.json"), *more]
    with HostileServer(answer=lambda body: completion("yes")) as server:
        assert main([*arguments, "--base-url", server.url]) == 0
        assert {row["generator"] for row in read(tmp_path / "a.json")} == {name}
        bad = [*arguments[: -len(more) or None], "--output", str(tmp_path / "b.json")]
        assert main([*bad, "--base-url", server.url, "--concurrency", "0"]) == 2


def test_an_adapter_answers_otherwise_than_its_base(checkpoint: Path, prompts: Path, tmp_path: Path):
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(checkpoint),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "lora")
    assert main(options(checkpoint, prompts, tmp_path / "base.json")) == 0
    assert main(options(checkpoint, prompts, tmp_path / "lora.json", "--adapter", str(tmp_path / "lora"))) == 0
    base, lora = read(tmp_path / "base.json"), read(tmp_path / "lora.json")
    assert [row["output"] for row in base] != [row["output"] for row in lora]
    assert (base[0]["generator"], lora[0]["generator"]) == ("small", "small+lora")
    assert main(options(checkpoint, prompts, tmp_path / "none.json", "--adapter", str(tmp_path))) == 2


def test_a_prompt_longer_than_the_context_is_counted_and_left_empty(checkpoint: Path, tmp_path: Path, capsys: Any):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([ROWS[0], {"idx": 99, "instruction": "what colour " * 40}]))
    assert main(options(checkpoint, path, tmp_path / "a.jsonl", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["prompts_too_long"] == 1
    first, second = (json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines())
    assert "unanswered" not in first
    assert (second["output"], second["unanswered"], second["idx"]) == ("", "prompt_too_long", 99)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "at least one row"),
        ([{"instruction": " "}], "a prompt must say something, got an empty one"),
        ([{"idx": 1, "instruction": "a"}, {"idx": 1, "instruction": "b"}], "the id '1' a second time"),
        ([{"question": "a"}], "got none for instruction"),
    ],
)
def test_prompts_that_cannot_be_asked(checkpoint: Path, tmp_path: Path, rows: Any, said: str, capsys: Any):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(rows))
    assert main(options(checkpoint, path, tmp_path / "a.json")) == 2
    assert said in message(capsys)
    assert not (tmp_path / "a.json.part").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--variant", "lang"], "Did you mean 'long'"),
        (["--variant", "truncated"], "--baseline-outputs goes with --variant truncated"),
        (["--baseline-outputs", "x.json"], "--baseline-outputs goes with --variant truncated"),
        (["--variant", "held_back=13"], "min_new_tokens must be from 0 to max_new_tokens=12, got 13"),
        (["--concurrency", "2"], "--concurrency is for a server"),
        (["--base-url", "http://127.0.0.1:9/v1"], "--template is for a checkpoint"),
        (["--limit", "0"], "--limit must be >= 1"),
        (["--cache-gib", "0"], "--cache-gib must be a finite number > 0"),
        (["--cache-gib", "nan"], "--cache-gib must be a finite number > 0"),
        (["--repetition-penalty", "0"], "repetition_penalty must be > 0"),
        (["--output", "a.txt"], "must end in .json or .jsonl, got a.txt"),
    ],
)
def test_options_that_cannot_be_obeyed(
    checkpoint: Path, prompts: Path, tmp_path: Path, more: list[str], said: str, capsys: Any
):
    assert main(options(checkpoint, prompts, tmp_path / "a.json", *more)) == 2
    assert said in message(capsys)


def test_a_server_answers_the_same_file(prompts: Path, tmp_path: Path):
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return completion(f"about {body['messages'][-1]['content'].split()[4]}", completion_tokens=2)

    arguments = ["generate", "--model", "org/big", "--prompts", str(prompts), "--output", str(tmp_path / "a.json")]
    more = ["--variant", "held_back=4", "--max-new-tokens", "9", "--repetition-penalty", "1.2"]
    with HostileServer(answer=answer, mood=moody(("500", "close"), 0.2)) as server:
        assert main([*arguments, "--base-url", server.url, *more]) == 0
    rows = read(tmp_path / "a.json")
    assert [row["output"] for row in rows] == [f"about {row['instruction'].split()[4]}" for row in ROWS]
    assert all((row["generator"], row["tokens"], row["ended"]) == ("big+held_back=4", 2, True) for row in rows)
    body = server.answered[0]
    assert {name: value for name, value in body.items() if name != "messages"} == {
        "model": "org/big",
        "temperature": 0.0,
        "max_tokens": 9,
        "min_tokens": 4,
        "repetition_penalty": 1.2,
    }


def test_what_a_server_does_not_answer_is_asked_again_by_the_same_command(prompts: Path, tmp_path: Path, capsys: Any):
    arguments = ["generate", "--model", "big", "--prompts", str(prompts), "--output", str(tmp_path / "a.json")]
    refused, too_long = (
        (400, {"error": {"code": code, "message": code}}) for code in ("content_filter", "context_length_exceeded")
    )

    def mood(body: dict[str, Any], before: int) -> Any:
        text = body["messages"][-1]["content"]
        if "red hat" in text:
            return refused
        if "red cat" in text:
            return too_long
        return (401, {"error": {"message": "no credit"}}) if stopping and "grey" in text else "answer"

    stopping = True
    with HostileServer(answer=lambda body: completion("yes"), mood=mood) as server:
        asked = [*arguments, "--base-url", server.url, "--concurrency", "1", "--json"]
        assert main(asked) == 1
        assert "What was answered is kept" in message(capsys)
        assert not (tmp_path / "a.json").exists()
        stopping = False
        first = len(server.asked)
        assert main(asked) == 0
        assert len(server.asked) == len(ROWS) + 1, "the one that stopped the work is asked twice, no other"
        assert first < len(ROWS)
    summary = json.loads(capsys.readouterr().out)
    assert (summary["refused"], summary["prompts_too_long"], summary["empty"]) == (1, 1, 2)
    rows = read(tmp_path / "a.json")
    assert [row.get("unanswered") for row in rows[:3]] == ["refused", "prompt_too_long", None]


@contextlib.contextmanager
def transformers_serve(checkpoint: Path) -> Iterator[str]:
    """A real OpenAI-compatible server of the checkpoint; gives its base URL."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(checkpoint), "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        assert process.poll() is None, "the server ended by itself"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_real_server_says_what_the_checkpoint_says_here(checkpoint: Path, prompts: Path, tmp_path: Path, capsys: Any):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for one in messages %}{{ one['content'] }}"
        "{% if one['role'] == 'user' %}{{ '\n' }}{% else %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    served = tmp_path / "served"
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(served)
    tokenizer.save_pretrained(served)
    shared = ["generate", "--model", str(served), "--prompts", str(prompts), "--limit", "6", "--max-new-tokens", "12"]
    with transformers_serve(served) as url:
        assert main([*shared, "--output", str(tmp_path / "there.json"), "--base-url", url]) == 0
        penalised = [*shared, "--output", str(tmp_path / "no.json"), "--base-url", url, "--repetition-penalty", "1.2"]
        assert main(penalised) == 1
        assert "repetition_penalty" in message(capsys), "a server that cannot obey a setting says so"
    assert main([*shared, "--output", str(tmp_path / "here.json")]) == 0
    there, here = read(tmp_path / "there.json"), read(tmp_path / "here.json")
    assert [row["output"] for row in there] == [row["output"] for row in here]
    assert [row["ended"] for row in there] == [row["ended"] for row in here]
    assert len({row["output"] for row in here}) > 1
