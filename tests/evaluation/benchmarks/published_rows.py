"""A few made-up rows in the forms that task files are published in, and the same rows as the hub has them."""

import csv
import json
from pathlib import Path
from typing import Any

SUBJECTS = ("anatomy", "world_religions")


def arc_native(number: int) -> dict[str, Any]:
    """AI2's form; every other question has digits for labels, as some of theirs have."""
    labels = "ABCD" if number % 2 else "1234"
    choices = [{"text": f"answer {number} {label}", "label": label} for label in labels]
    return {"id": f"q{number}", "question": {"stem": f"Why {number}?", "choices": choices}, "answerKey": labels[1]}


def arc_hub(number: int) -> dict[str, Any]:
    native = arc_native(number)
    choices = native["question"]["choices"]
    return {
        "id": native["id"],
        "question": native["question"]["stem"],
        "choices": {"text": [one["text"] for one in choices], "label": [one["label"] for one in choices]},
        "answerKey": native["answerKey"],
    }


def hellaswag_native(number: int) -> dict[str, Any]:
    """The original form, with the marks of WikiHow that lm-eval removes."""
    return {
        "ind": number,
        "activity_label": "Baking",
        "ctx_a": f"[header] How to bake {number} cakes [title] Warm the oven.  Wait",
        "ctx_b": "then the cook",
        "ctx": f"[header] How to bake {number} cakes [title] Warm the oven.  Wait then the cook",
        "endings": [f"[step] sings {number}.", "opens the oven.", "sleeps  well.", "eats [substeps] a shoe."],
        "split": "val",
        "split_type": "indomain",
        "label": number % 4,
        "source_id": f"wikihow~{number}",
    }


def hellaswag_hub(number: int) -> dict[str, Any]:
    return {**hellaswag_native(number), "label": str(number % 4)}


def mmlu_hub(subject: str, number: int) -> dict[str, Any]:
    choices = [f"{subject} {number}, {letter}" for letter in "ABCD"]
    return {"question": f' What of "{number}"?\nSay. ', "subject": subject, "choices": choices, "answer": number % 4}


def truthfulqa_native(number: int) -> dict[str, Any]:
    mc1 = {f"Nothing {number}.": 1, "You die.": 0, "You fly.": 0}
    return {"question": f"What if {number}?", "mc1_targets": mc1, "mc2_targets": {**mc1, "It depends.": 1}}


def truthfulqa_hub(number: int) -> dict[str, Any]:
    native = truthfulqa_native(number)
    targets = {
        name: {"choices": list(native[name]), "labels": list(native[name].values())}
        for name in ("mc1_targets", "mc2_targets")
    }
    return {"question": native["question"], **targets}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_every_subject(folder: Path) -> Path:
    """MMLU in one file a split, with all 57 subjects that lm-eval's group names."""
    import lm_eval.tasks

    definitions = (Path(lm_eval.tasks.__file__).parent / "mmlu/default").glob("mmlu_*.yaml")
    subjects = sorted(path.stem.removeprefix("mmlu_") for path in definitions)
    for split, numbers in (("dev", range(5)), ("test", range(100, 103))):
        rows = [mmlu_hub(subject, number) for subject in subjects for number in numbers]
        write_lines(folder / f"mmlu_{split}.jsonl", [{**row, "answer": "ABCD"[row["answer"]]} for row in rows])
    return folder


def write_published(folder: Path) -> Path:
    """Task files as AI2, HellaSwag's, MMLU's and TruthfulQA's authors publish them."""
    write_lines(folder / "ARC-V1/ARC-Challenge-Train.jsonl", [arc_native(n) for n in range(30)])
    write_lines(folder / "ARC-V1/ARC-Challenge-Test.jsonl", [arc_native(n) for n in range(100, 104)])
    write_lines(folder / "hellaswag_train.jsonl", [hellaswag_native(n) for n in range(12)])
    write_lines(folder / "hellaswag_val.jsonl", [hellaswag_native(n) for n in range(100, 104)])
    for split, numbers in (("dev", range(5)), ("val", range(10, 12)), ("test", range(100, 103))):
        for subject in SUBJECTS:
            path = folder / "mmlu" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [mmlu_hub(subject, number) for number in numbers]
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([row["question"], *row["choices"], "ABCD"[row["answer"]]] for row in rows)
    rows = [truthfulqa_native(n) for n in range(4)]
    (folder / "mc_task.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return folder
