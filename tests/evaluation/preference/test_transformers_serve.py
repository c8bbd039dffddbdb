"""A real OpenAI-compatible server: `transformers serve` with a bundled checkpoint, generation and judging over HTTP."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from neftune.cli.main import main
from neftune.evaluation.preference.client import ChatClient
from neftune.evaluation.preference.endpoint import ChatRequest, ChatSettings, Endpoint
from neftune.evaluation.preference.replies import Completion
from neftune.records import Turn

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.slow

TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
STARTS = ("Once upon a time", "Tim had a big", "The dog saw", "Lily was sad", "One day", "A little bird")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[tuple[str, Path]]:
    """A server's base URL, and the checkpoint that it serves."""
    model = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(shared / "models" / "babyllama-tok105-0.9m", model, copy_function=shutil.copyfile)
    model.chmod(0o755)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = model.parent / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, log.read_text()[-2000:]
                time.sleep(0.1)
        else:
            pytest.fail(f"the server did not come up: {log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        server.terminate()
        server.wait(30)


def test_generation_over_http_is_the_models_own_greedy_text(served: tuple[str, Path]):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from neftune.evaluation.generation import generate

    url, path = served
    settings = ChatSettings(str(path), max_tokens=24)
    found: dict[str, str] = {}

    def keep(request: ChatRequest, result: object) -> None:
        assert isinstance(result, Completion)
        assert result.completion_tokens == 24
        found[request.id] = result.text.strip()

    requests = [ChatRequest(text, (Turn("user", text),), settings) for text in STARTS]
    ChatClient(Endpoint(url, concurrency=3)).complete_many(requests, keep)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    own = generate(model, tokenizer, list(STARTS), max_new_tokens=24)
    assert [found[text] for text in STARTS] == [one.text for one in own]


def test_judging_over_http(served: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A model of children's stories ranks nothing: every verdict is kept, counted and null."""
    url, model = served
    for name in ("a", "b"):
        rows = [{"instruction": text, "output": name * (3 + i)} for i, text in enumerate(STARTS)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    command = ["judge", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--model", str(model), "--base-url", url]
    command += ["--max-tokens", "8", "--out", str(tmp_path), "--concurrency", "2"]
    assert main(command) == 1
    assert "verdicts: 6 malformed" in capsys.readouterr().err
    (path,) = (tmp_path / "judged").glob("*.json")
    rows = json.loads(path.read_text())
    assert all(row["preference"] is None and row["raw_completion"] for row in rows)
    assert main([*command, "--judge", "logprobs"]) == 1
    assert "without the log-probabilities that were asked for" in capsys.readouterr().err
