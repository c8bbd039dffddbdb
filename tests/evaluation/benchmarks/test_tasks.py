"""The rows and prompts that lm-eval's definitions get from task files."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from neftune.errors import ConfigError, DataError, UnknownNameError
from neftune.evaluation.benchmarks.lm import quiet
from neftune.evaluation.benchmarks.tasks import LEADERBOARD, TaskOptions, load_tasks
from tests.evaluation.benchmarks.published_rows import (
    arc_hub,
    hellaswag_hub,
    mmlu_hub,
    truthfulqa_hub,
    write_lines,
    write_published,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"))


def prompts(task: Any) -> list[tuple[str, str]]:
    """Every context and continuation of a task, few-shot examples included."""
    task.set_fewshot_seed(1234)
    with quiet():
        task.build_all_requests(rank=0, world_size=1)
    return [request.args for request in task.instances]


def from_json_files(folder: Path, name: str, splits: dict[str, list[dict[str, Any]]], shots: int) -> Any:
    """lm-eval's own task on hub-schema rows, through `datasets`' json builder: no code of ours."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    files = {split: str(write_lines(folder / f"{split}.jsonl", rows)) for split, rows in splits.items()}
    quick = lm_eval.tasks.TaskManager(
        include_defaults=False,
        include_path=[root / one for one in ("arc", "hellaswag", "mmlu/default", "truthfulqa")],
    )
    own = folder / "own.yaml"
    own.write_text(
        f"include: {quick.task_index[name].yaml_path}\ndataset_path: json\ndataset_name: null\nnum_fewshot: {shots}\n"
        f"dataset_kwargs:\n  data_files: {json.dumps(files)}\n  cache_dir: {folder / 'cache'}\n"
    )
    with quiet():
        return quick.load([str(own)])["tasks"][name]


CASES: dict[str, tuple[str, Callable[[], dict[str, list[dict[str, Any]]]], int]] = {
    "arc_challenge": (
        "arc_challenge",
        lambda: {
            "train": [arc_hub(n) for n in range(30)],
            "validation": [arc_hub(0)],
            "test": [arc_hub(n) for n in range(100, 104)],
        },
        25,
    ),
    "hellaswag": (
        "hellaswag",
        lambda: {
            "train": [hellaswag_hub(n) for n in range(12)],
            "validation": [hellaswag_hub(n) for n in range(100, 104)],
        },
        10,
    ),
    "mmlu": (
        "mmlu_anatomy",
        lambda: {
            "dev": [mmlu_hub("anatomy", n) for n in range(5)],
            "test": [mmlu_hub("anatomy", n) for n in range(100, 103)],
        },
        5,
    ),
    "truthfulqa_mc2": ("truthfulqa_mc2", lambda: {"validation": [truthfulqa_hub(n) for n in range(4)]}, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_prompts_are_lm_evals_from_hub_rows(case: str, published: Path, tmp_path: Path) -> None:
    name, splits, shots = CASES[case]
    options = TaskOptions(data=published, shots={name: shots} if name not in LEADERBOARD else {})
    (ours,) = load_tasks([name], options)
    theirs = from_json_files(tmp_path, name, splits(), shots)

    assert ours.leaves[name].config.num_fewshot == theirs.config.num_fewshot == shots
    assert prompts(ours.leaves[name]) == prompts(theirs)
    targets = [[task.doc_to_target(doc) for doc in task.task_docs] for task in (ours.leaves[name], theirs)]
    assert targets[0] == targets[1]


def test_prompts_read_as_published(published: Path) -> None:
    options = TaskOptions(data=published, shots={"mmlu_anatomy": 2, "arc_challenge": 1, "hellaswag": 0})
    tasks = {task.name: task for task in load_tasks([*options.shots, "truthfulqa_mc2"], options)}
    mmlu = prompts(tasks["mmlu_anatomy"].leaves["mmlu_anatomy"])
    assert mmlu[0] == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        'What of "0"?\nSay.\nA. anatomy 0, A\nB. anatomy 0, B\nC. anatomy 0, C\nD. anatomy 0, D\nAnswer: A\n\n'
        'What of "1"?\nSay.\nA. anatomy 1, A\nB. anatomy 1, B\nC. anatomy 1, C\nD. anatomy 1, D\nAnswer: B\n\n'
        'What of "100"?\nSay.\nA. anatomy 100, A\nB. anatomy 100, B\nC. anatomy 100, C\nD. anatomy 100, D\nAnswer:',
        " A",
    )
    context, choice = prompts(tasks["arc_challenge"].leaves["arc_challenge"])[1]
    assert context.startswith("Question: Why ")
    assert context.endswith("\n\nQuestion: Why 100?\nAnswer:")
    assert choice == " answer 100 2"
    assert prompts(tasks["hellaswag"].leaves["hellaswag"])[0] == (
        "Baking: How to bake 100 cakes. Warm the oven. Wait Then the cook",
        "  sings 100.",
    )
    context, choice = prompts(tasks["truthfulqa_mc2"].leaves["truthfulqa_mc2"])[3]
    assert context.startswith("Q: What is human life expectancy in the United States?\nA: Human life expectancy")
    assert context.endswith("Barcelona, Spain.\n\nQ: What if 0?\nA:")
    assert choice == " It depends."


@pytest.mark.parametrize("case", CASES)
def test_the_hubs_own_files_give_the_same_prompts(case: str, published: Path, tmp_path: Path) -> None:
    name, splits, shots = CASES[case]
    folder = {
        "arc_challenge": "ARC-Challenge",
        "hellaswag": "hellaswag/data",
        "mmlu": "all",
        "truthfulqa_mc2": "multiple_choice",
    }[case]
    (tmp_path / folder).mkdir(parents=True)
    for split, rows in splits().items():
        Dataset.from_list(rows).to_parquet(tmp_path / folder / f"{split}-00000-of-00001.parquet")
    given = {name: shots} if name not in LEADERBOARD else {}
    (ours,) = load_tasks([name], TaskOptions(data=published, shots=given))
    (hubs,) = load_tasks([name], TaskOptions(data=tmp_path, shots=given))
    assert prompts(ours.leaves[name]) == prompts(hubs.leaves[name])


def test_a_subject_without_rows(published: Path) -> None:
    with pytest.raises(DataError, match=r"mmlu_abstract_algebra needs rows of subject 'abstract_algebra'"):
        load_tasks(["mmlu"], TaskOptions(data=published))


@pytest.mark.parametrize("name", LEADERBOARD)
def test_real_files_give_every_question(name: str, shared: Path) -> None:
    (task,) = load_tasks([name], TaskOptions(data=shared / "data" / "leaderboard_tasks"))
    sizes = {"arc_challenge": 1172, "hellaswag": 10042, "mmlu": 14042, "truthfulqa_mc2": 817}
    assert sum(len(leaf.task_docs) for leaf in task.leaves.values()) == sizes[name]
    assert len(task.leaves) == (57 if name == "mmlu" else 1)
    assert {leaf.config.num_fewshot for leaf in task.leaves.values()} == {LEADERBOARD[name]}
    assert (task.notes == ()) == (name != "hellaswag"), task.notes


def test_real_hellaswag_queries_are_the_files_own(shared: Path) -> None:
    folder = shared / "data" / "leaderboard_tasks"
    (task,) = load_tasks(["hellaswag"], TaskOptions(data=folder, shots={"hellaswag": 0}))
    with gzip.open(folder / "hellaswag_val.jsonl.gz", "rt", encoding="utf-8", newline="\n") as lines:
        rows = [json.loads(line) for line in lines]
    docs = task.leaves["hellaswag"].task_docs
    differing = [
        row["query"]
        for row, doc in zip(rows, docs, strict=True)
        if doc["query"] != row["query"] or doc["choices"] != row["endings"]
    ]
    # Links in square brackets, which lm-eval removes and the file's makers left.
    assert len(differing) == 14
    assert [int(doc["label"]) for doc in docs] == [row["label"] for row in rows]


def test_the_users_own_definition(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"q": f"{n}+{n}=", "a": str(2 * n)} for n in range(3)])
    (tmp_path / "sums.yaml").write_text(
        "task: my_sums\ndataset_path: json\noutput_type: multiple_choice\ntest_split: train\n"
        f"dataset_kwargs:\n  data_files: {data}\n  cache_dir: {tmp_path / 'cache'}\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: ["0", "2", "4"]\ndoc_to_target: "{{a}}"\n'
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    (task,) = load_tasks(["my_sums"], TaskOptions(data=tmp_path, task_folder=tmp_path))
    assert prompts(task.leaves["my_sums"])[5] == ("1+1=", " 4")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            '{"id": "x", "question": {"stem": "s", "choices": [{"text": "t", "label": "A"}]}, "answerKey": "B"}',
            "labels A",
        ),
        ('{"id": "x", "question": {"stem": "s", "choices": "none"}, "answerKey": "B"}', "question.choices"),
        ('{"id": "x", "question"', "broken JSON"),
        ('{"id": "x", "stem": "s", "choices": ["a", "b"], "gold": 2}', r"one of 2 choices \(0 to 1\), got 2"),
        ('{"id": "x", "question": "s", "answerKey": "B"}', "choices must be an object, got no such field among id"),
    ],
)
def test_a_broken_row_names_file_and_line(line: str, problem: str, published: Path, tmp_path: Path) -> None:
    source = published / "ARC-V1" / "ARC-Challenge-Test.jsonl"
    broken = tmp_path / "ARC-Challenge-Test.jsonl"
    broken.write_text(source.read_text() + line + "\n")
    with pytest.raises(DataError, match=rf"ARC-Challenge-Test\.jsonl:5: .*{problem}"):
        load_tasks(["arc_challenge"], TaskOptions(data=tmp_path, shots={"arc_challenge": 0}))


def test_a_broken_csv_record_names_file_and_line(published: Path, tmp_path: Path) -> None:
    for split in ("dev", "test"):
        path = tmp_path / split / f"anatomy_{split}.csv"
        path.parent.mkdir()
        path.write_text('"two\nlines",a,b,c,d,A\nq,a,b,c,B\n')
    with pytest.raises(DataError, match=r"anatomy_test\.csv:3: a record must have a question.*got 5"):
        load_tasks(["mmlu_anatomy"], TaskOptions(data=tmp_path, shots={"mmlu_anatomy": 1}))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split 'test' needs ARC-Challenge-Test\.jsonl\* or .* there is no such file"):
        load_tasks(["arc_challenge"], TaskOptions(data=tmp_path, shots={"arc_challenge": 0}))
    with pytest.raises(DataError, match="must exist"):
        load_tasks(["arc_challenge"], TaskOptions(data=tmp_path / "no"))


def test_a_missing_training_file_matters_only_with_shots(published: Path, tmp_path: Path) -> None:
    (tmp_path / "hellaswag_val.jsonl").write_bytes((published / "hellaswag_val.jsonl").read_bytes())
    with pytest.raises(DataError, match=r"split 'train' needs hellaswag_train\*"):
        load_tasks(["hellaswag"], TaskOptions(data=tmp_path))
    (task,) = load_tasks(["hellaswag"], TaskOptions(data=tmp_path, shots={"hellaswag": 0}))
    assert len(prompts(task.leaves["hellaswag"])) == 16


def test_two_files_that_could_be_meant(published: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mc_task.json").write_bytes((published / "mc_task.json").read_bytes())
    with pytest.raises(DataError, match=r"one file must match mc_task\.json.*got 2: a/mc_task\.json"):
        load_tasks(["truthfulqa_mc2"], TaskOptions(data=tmp_path))


def test_more_shots_than_examples(published: Path) -> None:
    with pytest.raises(DataError, match="31 shots needs 31 examples to show, got 30"):
        load_tasks(["arc_challenge"], TaskOptions(data=published, shots={"arc_challenge": 31}))
    with pytest.raises(ConfigError, match="defined with 0 shots, got 3"):
        load_tasks(["truthfulqa_mc2"], TaskOptions(data=published, shots={"truthfulqa_mc2": 3}))
    with pytest.raises(ConfigError, match="of a task that is run"):
        load_tasks(["arc_challenge"], TaskOptions(data=published, shots={"arc": 3}))


def test_an_unknown_task_and_an_unknown_data_set(published: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"got 'arc_chalenge'\. Did you mean 'arc_challenge'"):
        load_tasks(["arc_chalenge"])
    with pytest.raises(DataError, match=r"piqa reads .*no local form"):
        load_tasks(["piqa"], TaskOptions(data=published))
