"""A model's answers to both turns: from a file, or generated; the second turn is asked after the first's answer."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neftune.data.prompts import Rendered, encode_all, render
from neftune.errors import DataError
from neftune.evaluation.generation import Generated, GenerationSettings, generate_each, prompt_room
from neftune.evaluation.mt_bench.questions import Question, read_turns
from neftune.records import Example, Turn

_UNWRITTEN = "-"
"""Stands for the response that a template is rendered without."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers.

    Attributes:
        model: Its name.
        turns: Question id -> both answers.
        num_without_room: Prompts that filled the model's context; their answers are "".
    """

    model: str
    turns: Mapping[str, tuple[str, str]]
    num_without_room: int = 0


def read_answers(path: Path, questions: Sequence[Question], *, model: str = "") -> Answers:
    """Answers from FastChat's `model_answer` format, one row per question.

    Args:
        path: The file.
        questions: All must be answered; answers to others are left out.
        model: Whose answers are taken where the file holds several models'; "" takes the only one.

    Raises:
        DataError: No such file, a broken row, an answer without both turns, or a question without an answer.
    """
    read = read_turns(path, "an answer", model=model)
    missing = [one.id for one in questions if one.id not in read]
    if missing:
        raise DataError(
            f"every question must be answered, got none for {len(missing)} of {len(questions)} in {path}, the first "
            f"for question {missing[0]}. Answer them, or leave these questions out."
        )
    names = {read[one.id][0] for one in questions}
    name = model or (names.pop() if len(names) == 1 else "") or path.name.split(".")[0]
    return Answers(name, {one.id: read[one.id][1] for one in questions})


def write_answers(path: Path, answers: Answers) -> None:
    """Writes FastChat's `model_answer` format."""
    lines = [
        json.dumps(
            {"question_id": _number(key), "model_id": answers.model, "choices": [{"index": 0, "turns": list(turns)}]}
        )
        for key, turns in answers.turns.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def generate_answers(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    name: str,
    settings: GenerationSettings,
    template: str = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> Answers:
    """Greedy answers to both turns, the second asked with the first turn and its answer before it.

    FastChat samples four of the eight categories, at temperature 0.1 or 0.7, and lets a turn have 1024 tokens.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        questions: What is asked.
        name: What the model is called.
        settings: How; the token that the template ends a response with ends an answer too.
        template: Prompt template; "auto" is the tokenizer's own where it has one, else alpaca.
        on_progress: Called with how many answers have come.

    Raises:
        DataError: No first turn leaves room for an answer.
    """
    answer = _Answering(model, tokenizer, settings, template, on_progress or (lambda _: None))
    conversations = [[Turn("user", one.turns[0])] for one in questions]
    first = answer(conversations)
    if all(text is None for text in first):
        raise DataError("At least one question must leave room for an answer in the model's context, got none.")
    for turns, text, one in zip(conversations, first, questions, strict=True):
        turns += [Turn("assistant", text or ""), Turn("user", one.turns[1])]
    second = answer(conversations)
    both = {one.id: (a or "", b or "") for one, a, b in zip(questions, first, second, strict=True)}
    return Answers(name, both, sum(text is None for text in [*first, *second]))


@dataclass(frozen=True, slots=True)
class _Answering:
    """A model, and how it is asked."""

    model: Any
    tokenizer: Any
    settings: GenerationSettings
    template: str
    on_progress: Callable[[int], None]

    def __call__(self, conversations: Sequence[Sequence[Turn]]) -> list[str | None]:
        """The next answer of each; None where the context leaves it no room."""
        rendered = [self._rendered(turns) for turns in conversations]
        rooms = [prompt_room(self.model, self.tokenizer, one.prompt) for one in rendered]
        fitting = [index for index, room in enumerate(rooms) if room is None or room >= 1]
        answers: list[str | None] = [None] * len(rendered)

        def take_in(position: int, one: Generated) -> None:
            answers[fitting[position]] = one.text
            self.on_progress(1)

        if fitting:
            settings = replace(self.settings, end_tokens=_ends(self.tokenizer, rendered[0].response))
            prompts = [rendered[index].prompt for index in fitting]
            generate_each(self.model, self.tokenizer, prompts, settings, on_answer=take_in)
        return answers

    def _rendered(self, turns: Sequence[Turn]) -> Rendered:
        example = Example.make([*turns, Turn("assistant", _UNWRITTEN)])
        return render(example, template=self.template, tokenizer=self.tokenizer)


def _ends(tokenizer: Any, response: str) -> tuple[int, ...]:
    """The special token that the template ends a response with."""
    last = encode_all([response], tokenizer)[0][-1]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (last,) if last in special | {tokenizer.eos_token_id} else ()


def _number(key: str) -> int | str:
    return int(key) if key.isdecimal() else key
