"""Rows of published task files -> rows of the hub data set that lm-eval's task definition expects.

A task's prompt is rendered by lm-eval from these rows, so a row is right when it has the hub's fields, types and
meanings; nothing is rendered here.
"""

import string
from collections.abc import Callable, Mapping
from typing import Any, cast

Fields = Mapping[str, Any]
Convert = Callable[[Fields], dict[str, Any]]


class BrokenRowError(ValueError):
    """What is wrong with a row, without where it stands."""


def arc_row(fields: Fields) -> dict[str, Any]:
    """A row of allenai/ai2_arc from AI2's native form, from the hub's, or from {id, stem, choices, gold}.

    The last form has lost its labels (A-E or 1-4), which lm-eval never shows: letters stand in for them.

    Raises:
        BrokenRowError: A field is missing or of the wrong type, or the answer is none of the choices.
    """
    if isinstance(fields.get("question"), Mapping):
        question = cast(Fields, fields["question"])
        texts, labels = _native_choices(question)
        stem, answer = _text(question, "stem"), _text(fields, "answerKey")
    elif "stem" in fields:
        texts = _texts(fields, "choices")
        labels = list(string.ascii_uppercase[: len(texts)])
        stem, answer = _text(fields, "stem"), labels[_index(fields, "gold", len(texts))]
    else:
        choices = _mapping(fields, "choices")
        texts, labels = _texts(choices, "text"), _texts(choices, "label")
        stem, answer = _text(fields, "question"), _text(fields, "answerKey")
    if len(labels) != len(texts) or answer not in labels:
        raise BrokenRowError(f"answerKey must be one of the labels {', '.join(labels)}, got {answer!r}")
    choices = {"text": texts, "label": labels}
    return {"id": str(fields.get("id", "")), "question": stem, "choices": choices, "answerKey": answer}


def hellaswag_row(fields: Fields) -> dict[str, Any]:
    """A row of Rowan/hellaswag from the original file, from the hub, or from a file that has lm-eval's "query" already.

    In the last form the whole query stands in ctx_a, from which lm-eval's preprocessing makes the same query again.

    Raises:
        BrokenRowError: A field is missing or of the wrong type, or the label is no ending's.
    """
    activity, endings = _text(fields, "activity_label"), _texts(fields, "endings")
    label = _index(fields, "label", len(endings))
    if "ctx_a" in fields:
        first, last = _text(fields, "ctx_a"), _text(fields, "ctx_b", empty=True)
    else:
        query = _text(fields, "query")
        if not query.startswith(f"{activity}: "):
            raise BrokenRowError(f"query must begin with activity_label and a colon ({activity!r}), got {query!r:.60}")
        first, last = query.removeprefix(f"{activity}: "), ""
    number = fields.get("ind", fields.get("idx", 0))
    parts = {"ctx_a": first, "ctx_b": last, "ctx": fields.get("ctx", f"{first} {last}".strip())}
    return {"ind": number, "activity_label": activity, **parts, "endings": endings, "label": str(label)}


def mmlu_row(fields: Fields) -> dict[str, Any]:
    """A row of cais/mmlu from {subject, question, choices, answer}, the answer a letter or the number of a choice.

    Raises:
        BrokenRowError: A field is missing or of the wrong type, there are not four choices, or the answer is none.
    """
    choices = _texts(fields, "choices")
    if len(choices) != 4:
        raise BrokenRowError(f"choices must be four, got {len(choices)}")
    answer = fields.get("answer")
    if isinstance(answer, str) and answer.strip() in tuple("ABCD"):
        number = "ABCD".index(answer.strip())
    else:
        number = _index(fields, "answer", 4)
    subject = _text(fields, "subject").replace(" ", "_")
    return {"question": _text(fields, "question"), "subject": subject, "choices": choices, "answer": number}


def truthfulqa_row(fields: Fields) -> dict[str, Any]:
    """A row of truthfulqa/truthful_qa (multiple_choice) from TruthfulQA's mc_task.json or from the hub.

    Raises:
        BrokenRowError: A field is missing or of the wrong type, or no choice is true, or none is false.
    """
    targets = {name: _targets(fields, name) for name in ("mc1_targets", "mc2_targets")}
    return {"question": _text(fields, "question"), **targets}


def ifeval_row(fields: Fields) -> dict[str, Any]:
    """A row of google/IFEval from its input_data.jsonl, every argument of every instruction named, None where unused.

    Raises:
        BrokenRowError: A field is missing or of the wrong type, or instructions and their arguments do not match.
    """
    names, arguments = _texts(fields, "instruction_id_list"), fields.get("kwargs")
    if not isinstance(arguments, list) or len(arguments) != len(names):
        raise BrokenRowError(f"kwargs must be one object per instruction ({len(names)}), got {arguments!r:.60}")
    kept = [{name: one.get(name) for name in _IFEVAL_ARGUMENTS} for one in cast("list[Fields]", arguments)]
    key = fields.get("key")
    if not isinstance(key, int):
        raise BrokenRowError(f"key must be a whole number, got {key!r:.60}")
    return {"key": key, "prompt": _text(fields, "prompt"), "instruction_id_list": names, "kwargs": kept}


_IFEVAL_ARGUMENTS = (
    *("num_highlights", "relation", "num_words", "num_placeholders", "prompt_to_repeat", "num_bullets"),
    *("section_spliter", "num_sections", "capital_relation", "capital_frequency", "keywords", "num_paragraphs"),
    *("language", "let_relation", "letter", "let_frequency", "end_phrase", "forbidden_words", "keyword", "frequency"),
    *("num_sentences", "postscript_marker", "first_word", "nth_paragraph"),
)


def _native_choices(question: Fields) -> tuple[list[str], list[str]]:
    choices = question.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(one, Mapping) for one in choices):
        raise BrokenRowError(f"question.choices must be a list of {{text, label}}, got {choices!r:.60}")
    rows = cast("list[Fields]", choices)
    return [_text(one, "text", empty=True) for one in rows], [_text(one, "label") for one in rows]


def _targets(fields: Fields, name: str) -> dict[str, list[Any]]:
    given = _mapping(fields, name)
    if isinstance(given.get("choices"), list):
        choices, labels = _texts(given, "choices"), list(given.get("labels") or ())
    else:
        choices, labels = [str(one) for one in given], list(given.values())
    if len(labels) != len(choices) or set(labels) != {0, 1}:
        raise BrokenRowError(f"{name} must mark each choice with 1 or 0, with one of either at least, got {labels}")
    return {"choices": choices, "labels": [int(one) for one in labels]}


def _text(fields: Fields, name: str, *, empty: bool = False) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not (value.strip() or empty):
        raise BrokenRowError(f"{name} must be a text, got {_shown(fields, name)}")
    return value


def _texts(fields: Fields, name: str) -> list[str]:
    value = fields.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise BrokenRowError(f"{name} must be a list of texts, got {_shown(fields, name)}")
    return cast("list[str]", value)


def _mapping(fields: Fields, name: str) -> Fields:
    value = fields.get(name)
    if not isinstance(value, Mapping) or not value:
        raise BrokenRowError(f"{name} must be an object, got {_shown(fields, name)}")
    return cast(Fields, value)


def _index(fields: Fields, name: str, num: int) -> int:
    value = fields.get(name)
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num:
        raise BrokenRowError(f"{name} must name one of {num} choices (0 to {num - 1}), got {_shown(fields, name)}")
    return value


def _shown(fields: Fields, name: str) -> str:
    return f"{fields[name]!r:.60}" if name in fields else f"no such field among {', '.join(map(str, fields))}"
