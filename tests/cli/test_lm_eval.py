"""lm-eval's own command line, with one more model in its list."""

import json
from pathlib import Path

import pytest
from lm_eval.models.huggingface import HFLM

from neftune.cli.main import main, verb_help
from tests.evaluation.scoring.models import instances
from tests.tiny import make_checkpoint

TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [red, blue, green]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


def make_task(folder: Path) -> Path:
    rows = [
        {"question": f"what colour is the {thing} ?", "answer": number % 3}
        for number, thing in enumerate(["hat", "cat", "door", "cup"])
    ]
    data = folder / "colours.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "colours.yaml").write_text(TASK.format(data=data))
    return folder


def test_the_model_is_there_and_gives_the_numbers_of_hf(tmp_path: Path):
    checkpoint, tasks, out = make_checkpoint(tmp_path / "model"), make_task(tmp_path), tmp_path / "out"
    command = ["lm-eval", "--model", "neftune", "--device", "cpu", "--model_args", f"pretrained={checkpoint}"]
    command += ["--tasks", "colours", "--include_path", str(tasks), "--output_path", str(out), "--log_samples"]
    assert main(command) == 0
    (path,) = out.rglob("samples_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(samples) == 4
    hf = HFLM(pretrained=str(checkpoint), device="cpu")
    for sample in samples:
        pairs = [tuple(one.values()) for one in sample["arguments"].values()]
        for found, (value, greedy) in zip(sample["filtered_resps"], hf.loglikelihood(instances(pairs)), strict=True):
            assert float(found[0]) == pytest.approx(value, abs=1e-4)
            assert found[1] == str(greedy)


def test_its_help_says_how_to_use_it():
    assert "--model neftune" in verb_help("lm-eval")


def test_lm_evals_own_errors_keep_their_exit_code():
    assert main(["lm-eval", "run", "--no-such-option"]) == 2
