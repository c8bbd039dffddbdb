"""IFEval: lm-eval's own checks on local prompts, and what is said where something they need is missing."""

import json
import sys
from pathlib import Path

import nltk
import pytest
from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

from neftune.errors import DataError, MissingExtraError, ModelError
from neftune.evaluation.benchmarks.lm import evaluation_state
from neftune.evaluation.benchmarks.run import RunOptions, run_benchmarks
from neftune.evaluation.benchmarks.tasks import TaskOptions, load_tasks
from tests.evaluation.benchmarks.published_rows import write_lines
from tests.evaluation.benchmarks.test_run import tiny_llama
from tests.tiny_tokenizers import byte_level

ROWS = [
    {
        "key": 7,
        "prompt": "Say nothing with commas, in fewer than 9 sentences.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_sentences"],
        "kwargs": [{}, {"relation": "less than", "num_sentences": 9}],
    },
    {
        "key": 8,
        "prompt": "Write the word zebra.",
        "instruction_id_list": ["keywords:existence"],
        "kwargs": [{"keywords": ["zebra"]}],
    },
]


@pytest.fixture
def fresh_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """IFEval's modules as if never imported, and no data of NLTK's."""
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(nltk.data, "path", [])


@pytest.fixture
def punkt(fresh_import: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sentence splitter in NLTK's form, trained here: the published one cannot be fetched without a network."""
    folder = tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english"
    trainer = PunktTrainer("Dr. Smith met Mr. Jones. They spoke. Then Dr. Smith left. Mr. Jones stayed, e.g. to sleep.")
    trainer.finalize_training()
    folder.mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])
    save_punkt_params(trainer.get_params(), dir=str(folder))


def short_answers(folder: Path) -> Path:
    """lm-eval's definition with answers of 24 tokens."""
    import lm_eval.tasks

    published = Path(lm_eval.tasks.__file__).parent / "ifeval" / "ifeval.yaml"
    (folder / "short.yaml").write_text(
        f"include: {published}\ntask: ifeval_short\ngeneration_kwargs:\n  until: []\n  do_sample: false\n"
        "  temperature: 0.0\n  max_gen_toks: 24\n"
    )
    return folder


@pytest.mark.usefixtures("punkt")
def test_answers_are_judged_instruction_by_instruction(tmp_path: Path) -> None:
    write_lines(tmp_path / "ifeval_input_data.jsonl", ROWS)
    tasks = TaskOptions(data=tmp_path, task_folder=short_answers(tmp_path))
    found = run_benchmarks(tiny_llama(), byte_level(), ["ifeval_short"], tasks=tasks)["ifeval_short"]
    values = found.scores.values
    assert values["inst_level_strict_acc_count"] == (2.0, 1.0)
    texts = [found.texts[one] for one in found.scores.example_ids]
    assert all(texts)
    expected = [(("," not in texts[0]) + 1) / 2, float("zebra" in texts[1].lower())]
    assert values["inst_level_strict_acc"] == tuple(expected)
    total = sum(expected[i] * values["inst_level_strict_acc_count"][i] for i in range(2)) / 3
    assert found.aggregates["ifeval_short"]["inst_level_strict_acc,none"] == pytest.approx(total)
    again = run_benchmarks(tiny_llama(), byte_level(), ["ifeval_short"], tasks=tasks, options=RunOptions(backend="hf"))
    assert again["ifeval_short"].texts == found.texts


@pytest.mark.usefixtures("punkt")
def test_a_context_that_the_answer_fills(tmp_path: Path) -> None:
    write_lines(tmp_path / "ifeval_input_data.jsonl", ROWS)
    with pytest.raises(ModelError, match="answers of up to 1280 tokens, got a model with a context of 512"):
        run_benchmarks(tiny_llama(max_length=512), byte_level(), ["ifeval"], tasks=TaskOptions(data=tmp_path))


@pytest.mark.usefixtures("punkt")
def test_every_published_prompt_can_be_checked(shared: Path) -> None:
    (task,) = load_tasks(["ifeval"], TaskOptions(data=shared / "data" / "chat_eval"))
    leaf = task.leaves["ifeval"]
    assert len(leaf.task_docs) == 541
    for doc in leaf.task_docs:
        judged = leaf.process_results(doc, ["One answer. It has two sentences."])
        assert len(judged["inst_level_strict_acc"]) == len(doc["instruction_id_list"])


@pytest.mark.usefixtures("fresh_import")
def test_what_is_missing_is_named_and_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "ifeval_input_data.jsonl", ROWS)
    tasks = TaskOptions(data=tmp_path)
    with pytest.raises(DataError, match=r"ifeval needs NLTK's punkt_tab.*python -m nltk\.downloader punkt_tab"):
        load_tasks(["ifeval"], tasks)
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(MissingExtraError, match=r"ifeval needs langdetect: pip install 'neftune\[ifeval\]'"):
        load_tasks(["ifeval"], tasks)


def test_the_language_of_a_text_is_the_same_every_time() -> None:
    from langdetect import DetectorFactory, detect_langs

    with evaluation_state(tiny_llama()):
        assert len({str(detect_langs("no si da me la hotel taxi")) for _ in range(10)}) == 1
    assert DetectorFactory.seed is None


@pytest.mark.usefixtures("punkt")
def test_a_broken_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "ifeval_input_data.jsonl", ROWS)
    path.write_text(path.read_text() + json.dumps({**ROWS[0], "kwargs": [{}]}) + "\n")
    with pytest.raises(DataError, match=r"ifeval_input_data\.jsonl:3: kwargs must be one object per instruction \(2\)"):
        load_tasks(["ifeval"], TaskOptions(data=tmp_path))
