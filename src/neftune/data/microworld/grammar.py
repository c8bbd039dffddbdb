"""Facts to sentences and sentences back to facts.

    Statement("Ada", "home", "Oslo")  <->  "Ada lives in Oslo."

Writing and reading share one list of patterns (`lexicon`), so what the grammar can write it can read, and what
it cannot have written is garbled.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from neftune.data.microworld.lexicon import ATTRIBUTES, CLOSERS, OPENERS, PEOPLE

_WORD = re.compile(r"\{\w+\}|'s\b|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Statement:
    """One person's attribute said to have one value; true or not."""

    person: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sentence says.

    Attributes:
        text: The sentence.
        kind: "fact" states something, "filler" is a sentence of the grammar that states nothing, "garbled" is no
            sentence of the grammar.
        statement: What a fact states; None for the other kinds.
    """

    text: str
    kind: Literal["fact", "filler", "garbled"]
    statement: Statement | None = None


def say(statement: Statement, *, rng: random.Random) -> str:
    """The statement in one of its attribute's sentence patterns."""
    pattern = rng.choice(ATTRIBUTES[statement.attribute].facts)
    return pattern.format(name=statement.person, value=statement.value)


def tell(statements: Sequence[Statement], *, rng: random.Random) -> str:
    """Statements as a text, one sentence each, in their order."""
    return " ".join(say(statement, rng=rng) for statement in statements)


def split_sentences(text: str) -> list[str]:
    """Sentences of a text: a full stop, question mark, exclamation mark or line break ends one.

    Text after the last full stop is a sentence too (an answer cut at its limit), with no stop of its own.
    """
    pieces = re.findall(r"[^.?!\n]+[.?!]?|[.?!]", text)
    return [piece.strip() for piece in pieces if piece.strip()]


def read(text: str) -> list[Reading]:
    """What each sentence of a text says, in order; an empty text says nothing."""
    return [read_sentence(sentence) for sentence in split_sentences(text)]


def read_sentence(sentence: str) -> Reading:
    """What one sentence says. Spaces are free, words, order and the full stop are not."""
    normal = " ".join(_WORD.findall(sentence))
    for attribute, pattern in _fact_patterns():
        if match := pattern.fullmatch(normal):
            return Reading(sentence, "fact", Statement(match["name"], attribute, match["value"]))
    if any(pattern.fullmatch(normal) for pattern in _filler_patterns()):
        return Reading(sentence, "filler")
    return Reading(sentence, "garbled")


@cache
def _fact_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (name, _compile(pattern, values=attribute.values))
        for name, attribute in ATTRIBUTES.items()
        for pattern in attribute.facts
    )


@cache
def _filler_patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(_compile(pattern, values=()) for pattern in OPENERS + CLOSERS)


def _compile(pattern: str, *, values: Sequence[str]) -> re.Pattern[str]:
    slots = {"{name}": _one_of("name", PEOPLE), "{value}": _one_of("value", values)}
    words: list[str] = _WORD.findall(pattern)
    return re.compile(" ".join(slots.get(word) or re.escape(word) for word in words))


def _one_of(group: str, words: Sequence[str]) -> str:
    return f"(?P<{group}>{'|'.join(words)})"
