"""A small MT-Bench in FastChat's files, and the real one from the folder of real data."""

import json
from pathlib import Path
from typing import Any

from neftune.evaluation.mt_bench.questions import Bench, read_bench

QUESTIONS: list[dict[str, Any]] = [
    {"question_id": 81, "category": "writing", "turns": ["which hat is red ?", "what colour is the cat ?"]},
    {"question_id": 111, "category": "math", "turns": ["what is the door ?", "which cup is blue ?"]},
]
REFERENCES: list[dict[str, Any]] = [{"question_id": 111, "choices": [{"index": 0, "turns": ["a {door}", "a cup"]}]}]
FIRST, SECOND = "{question}|{answer}", "{question_1}|{answer_1}|{question_2}|{answer_2}"
PROMPTS: list[dict[str, Any]] = [
    {"name": "single-v1", "system_prompt": "Be fair.", "prompt_template": FIRST},
    {"name": "single-math-v1", "system_prompt": "Be fair.", "prompt_template": "{ref_answer_1}|" + FIRST},
    {"name": "single-v1-multi-turn", "system_prompt": "", "prompt_template": SECOND},
    {"name": "single-math-v1-multi-turn", "system_prompt": "Add.", "prompt_template": "{ref_answer_2}|" + SECOND},
]


def write_lines(path: Path, rows: list[Any]) -> Path:
    """JSON lines; a text is a line as it stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def small_bench(folder: Path) -> Path:
    """FastChat's layout: data/mt_bench beside data/judge_prompts.jsonl; the folder of data."""
    write_lines(folder / "mt_bench" / "question.jsonl", QUESTIONS)
    write_lines(folder / "mt_bench" / "reference_answer" / "gpt-4.jsonl", REFERENCES)
    write_lines(folder / "judge_prompts.jsonl", PROMPTS)
    return folder


def real_files(shared: Path) -> list[Path]:
    """Questions, judge prompts, references."""
    names = ("question", "judge_prompts", "reference_gpt-4")
    return [shared / "data" / "chat_eval" / f"mt_bench_{name}.jsonl" for name in names]


def real_bench(shared: Path) -> Bench:
    return read_bench(*real_files(shared))
