"""Verdicts in files, in FastChat's `model_judgment` format."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from neftune.errors import DataError
from neftune.evaluation.mt_bench.grading import Grade
from neftune.evaluation.mt_bench.parsing import parse_score
from neftune.evaluation.mt_bench.questions import rows_of


def write_judgments(path: Path, grades: Iterable[Grade], *, model: str, judge: str) -> None:
    """Writes FastChat's `model_judgment` format, -1 where no score could be read; leaves out what has no verdict."""
    lines = [
        json.dumps(
            {
                "question_id": int(one.question_id) if one.question_id.isdecimal() else one.question_id,
                "model": model,
                "judge": [judge, one.prompt_name],
                "user_prompt": one.user_prompt,
                "judgment": one.judgment,
                "score": -1 if one.score is None else one.score,
                "turn": one.turn,
            }
        )
        for one in grades
        if one.judgment is not None
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_judgments(path: Path, categories: Mapping[str, str]) -> dict[str, tuple[Grade, ...]]:
    """Model -> grades, read anew from the judge's words in FastChat's `model_judgment` format.

    Args:
        path: The file.
        categories: Question id -> category.

    Raises:
        DataError: No such file, a broken row, a question that is not known, or an answer graded twice.
    """
    found: dict[str, dict[tuple[str, int], Grade]] = {}
    for row in rows_of(path):
        fields = row.fields
        key, turn, words = str(fields.get("question_id")), str(fields.get("turn")), fields.get("judgment")
        if key not in categories or turn not in ("1", "2") or not isinstance(words, str):
            raise DataError(
                f"{row.where}: a judgment must have a known question_id, turn 1 or 2 and the judge's words, got "
                f"question {key}, turn {turn} and {'words' if isinstance(words, str) else 'no words'}."
            )
        grades = found.setdefault(str(fields.get("model", "")), {})
        if (key, int(turn)) in grades:
            raise DataError(f"{row.where}: each answer must be graded once, got question {key}, turn {turn} again.")
        judge = fields.get("judge")
        name = str(judge[1]) if isinstance(judge, list) and len(judge) == 2 else ""
        asked = str(fields.get("user_prompt", ""))
        grades[key, int(turn)] = Grade(key, categories[key], int(turn), name, asked, words, parse_score(words))
    if not found:
        raise DataError(f"judgments must have rows, got none in {path}.")
    return {model: tuple(grades.values()) for model, grades in found.items()}
