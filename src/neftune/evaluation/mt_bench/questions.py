"""FastChat's files: the questions, the judge prompts, the reference answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neftune.data.readers import BadRow, Row, read_rows
from neftune.errors import DataError

WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose judge sees a reference answer."""

PROMPT_NAMES = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


@dataclass(frozen=True, slots=True)
class Question:
    """One question: what is asked first, and what follows."""

    id: str
    category: str
    turns: tuple[str, str]


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """What a judge is told: a system message, and a template with FastChat's placeholders."""

    name: str
    system: str
    template: str


@dataclass(frozen=True, slots=True)
class Bench:
    """All that grading needs beside the answers.

    Attributes:
        questions: In their file's order.
        prompts: By name, the four of `PROMPT_NAMES`.
        references: Question id -> both turns, for every question of `WITH_REFERENCE`.
    """

    questions: tuple[Question, ...]
    prompts: Mapping[str, JudgePrompt]
    references: Mapping[str, tuple[str, str]]


def find_files(folder: Path) -> tuple[Path, Path, Path]:
    """Questions, judge prompts and GPT-4's reference answers as FastChat lays them: data/mt_bench, or data itself.

    Raises:
        DataError: One of them is not there.
    """
    inner = folder / "mt_bench" if (folder / "mt_bench").is_dir() else folder
    prompts = next(
        (at / "judge_prompts.jsonl" for at in (inner, inner.parent) if (at / "judge_prompts.jsonl").is_file()), None
    )
    found = (
        inner / "question.jsonl",
        prompts or inner / "judge_prompts.jsonl",
        inner / "reference_answer" / "gpt-4.jsonl",
    )
    missing = [str(path) for path in found if not path.is_file()]
    if missing:
        raise DataError(
            f"the data folder must be FastChat's llm_judge/data (question.jsonl, judge_prompts.jsonl, "
            f"reference_answer/gpt-4.jsonl); there is no {', no '.join(missing)}. Name the files, or that folder."
        )
    return found


def read_bench(questions: Path, prompts: Path, references: Path) -> Bench:
    """The three files, checked against each other.

    Raises:
        DataError: No such file, a broken row, a question twice or without its two turns, a judge prompt missing, or a
            question of math, reasoning or coding without a reference answer.
    """
    asked = _questions(questions)
    known = _prompts(prompts)
    given = read_turns(references, "a reference answer")
    bare = [one.id for one in asked if one.category in WITH_REFERENCE and one.id not in given]
    if bare:
        raise DataError(
            f"questions of {', '.join(WITH_REFERENCE)} need a reference answer, got none for {len(bare)} in "
            f"{references}, the first for question {bare[0]}."
        )
    return Bench(asked, known, {key: turns for key, (_, turns) in given.items()})


def read_turns(path: Path, what: str, *, model: str = "") -> dict[str, tuple[str, tuple[str, str]]]:
    """Question id -> (who answered, both turns), from FastChat's answer format or plain `turns`.

    Args:
        path: The file.
        what: What errors call a row.
        model: Whose rows are read; "" reads all.

    Raises:
        DataError: No such file, a broken row, a question answered twice, or not in both turns.
    """
    found: dict[str, tuple[str, tuple[str, str]]] = {}
    for row in rows_of(path):
        who = str(row.fields.get("model_id") or row.fields.get("model") or "")
        if model and who != model:
            continue
        key = _id(row)
        choices: Any = row.fields.get("choices")
        turns: Any = choices[0].get("turns") if _holds_object(choices) else row.fields.get("turns")
        if not _is_two_texts(turns):
            got = f"{len(turns)}" if isinstance(turns, list) else "none"
            raise DataError(f"{row.where}: {what} must have both turns as texts, got {got} for question {key}.")
        if key in found:
            first = found[key][0]
            hint = f" One is of {first}, one of {who}: name the model (--name)." if who != first else ""
            raise DataError(
                f"{row.where}: each question must be answered once, got question {key} a second time.{hint}"
            )
        found[key] = (who, (turns[0], turns[1]))
    return found


def rows_of(path: Path) -> Iterator[Row]:
    """Rows of a file.

    Raises:
        DataError: No such file, or a broken row.
    """
    if not path.is_file():
        raise DataError(f"MT-Bench needs the file {path}, which is none. Check the path.")
    for _, rows in read_rows(path):
        for row in rows:
            if isinstance(row, BadRow):
                raise DataError(f"{row.where}: {row.problem}.")
            yield row


def _questions(path: Path) -> tuple[Question, ...]:
    found: dict[str, Question] = {}
    for row in rows_of(path):
        key, category = _id(row), row.fields.get("category")
        turns: Any = row.fields.get("turns")
        if not _is_two_texts(turns):
            raise DataError(f"{row.where}: question {key} must have two turns, texts both.")
        if not isinstance(category, str) or not category:
            raise DataError(f"{row.where}: question {key} must have a category, got none.")
        if key in found:
            raise DataError(f"{row.where}: each question must stand once, got question {key} a second time.")
        found[key] = Question(key, category, (turns[0], turns[1]))
    if not found:
        raise DataError(f"MT-Bench needs questions, got none in {path}.")
    return tuple(found.values())


def _prompts(path: Path) -> dict[str, JudgePrompt]:
    found: dict[str, JudgePrompt] = {}
    for row in rows_of(path):
        name, system, template = (row.fields.get(key) for key in ("name", "system_prompt", "prompt_template"))
        if name in PROMPT_NAMES:
            if not isinstance(system, str) or not isinstance(template, str):
                raise DataError(
                    f"{row.where}: judge prompt {name} must have system_prompt and prompt_template, texts both."
                )
            found[str(name)] = JudgePrompt(str(name), system, template)
    missing = [name for name in PROMPT_NAMES if name not in found]
    if missing:
        raise DataError(f"judge prompts must hold {', '.join(PROMPT_NAMES)}; {path} lacks {', '.join(missing)}.")
    return found


def _id(row: Row) -> str:
    key = row.fields.get("question_id")
    if key is None or key == "":
        raise DataError(f"{row.where}: a row must have a question_id, got none.")
    return str(key)


def _is_two_texts(turns: Any) -> bool:
    return isinstance(turns, list) and len(turns) == 2 and all(isinstance(turn, str) for turn in turns)


def _holds_object(choices: Any) -> bool:
    return isinstance(choices, Sequence) and bool(choices) and isinstance(choices[0], dict)
