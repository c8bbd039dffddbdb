"""`neftune audit` on a tiny model: every layout and provider, what it writes, and what it refuses."""

import json
from pathlib import Path

import pytest

from neftune.cli.main import main
from tests.tiny import make_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name a model and documents of 9 to 48 tokens."""
    folder = tmp_path_factory.mktemp("audit")
    make_checkpoint(folder / "model", width=64)
    rows = [{"prompt": "what is the hat ?", "completion": " ".join(["red"] * (3 + 2 * (i % 20)))} for i in range(60)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model.path": folder / "model", "data.source": folder / "data.jsonl"}
    options |= {"data.template": "plain", "data.max-length": 64}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def run(given: list[str], tmp_path: Path, *options: str) -> dict:
    file = tmp_path / "audit.json"
    assert main(["audit", *given, "--batches", "8", "--json", str(file), *options]) == 0
    return json.loads(file.read_text())


@pytest.mark.parametrize("layout", ["padded", "packed", "padding-free"])
def test_ours_is_exact_in_every_layout(given, tmp_path, layout, capsys):
    result = run(given, tmp_path, "--provider", "neftune", "--layout", layout)
    assert result["is_exact"]
    assert result["findings"][0]["mean"] == pytest.approx(1.0, abs=0.01)
    assert [finding["phase"] for finding in result["findings"]] == ["training", "no_grad", "eval"]
    shown = capsys.readouterr().out
    assert "exact: documents get 1.00 of alpha=5 at every length, padding none; none in training mode without" in shown


@pytest.mark.parametrize(("layout", "low", "high"), [("padded", 0.7, 0.9), ("packed", 0.2, 0.5)])
def test_transformers_hook_is_not(given, tmp_path, layout, low, high, capsys):
    result = run(given, tmp_path, "--layout", layout, "--alpha", "10")
    training, without_gradients, evaluation = result["findings"]
    assert low < training["mean"] < high
    assert (training["padding_rms"] > 0) == (layout == "padded")
    assert without_gradients["mean"] > 0
    assert evaluation["mean"] == 0
    assert result["settings"]["pipeline"]["alpha"] == result["alpha"] == 10
    shown = capsys.readouterr().out
    assert f"alpha=10 under this pipeline is about alpha={10 * training['mean']:.2g} with neftune" in shown
    assert ("padding is noised" in shown) == (layout == "padded")


def test_no_noise_and_the_figure(given, tmp_path, capsys):
    figure = tmp_path / "audit.html"
    result = run(given, tmp_path, "--provider", "none", "--figure", str(figure))
    assert result["verdict"] == "documents get no noise at all (0.00 of alpha=5)"
    assert "under this pipeline" not in capsys.readouterr().out
    text = figure.read_text()
    assert "realised alpha" in text
    assert "<script src=" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--provider", "trl"], "provider must be one of transformers, neftune, none, got 'trl'"),
        (["--layout", "packd"], "layout must be one of padded, packed, padding-free, got 'packd'"),
        (["--batches", "0"], "num_batches must be 1 or more, got 0"),
        (["--alpha", "0"], "an audit compares with a nominal alpha > 0, got 0"),
        (["--train.learning-rate", "1"], "audit takes settings of model and data only, got --train.learning_rate"),
    ],
)
def test_what_it_refuses(given, options, message, capsys):
    assert main(["audit", *given, *options]) == 2
    assert message in capsys.readouterr().err


def test_without_a_model_it_says_what_to_give(capsys):
    assert main(["audit"]) == 2
    assert "audit needs a model and data, got none. Give --model.path MODEL" in capsys.readouterr().err


def test_its_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["audit", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--provider", "--layout", "neftune.audit(trainer)", "1.00 is the paper's noise", "--model.path"):
        assert word in shown
