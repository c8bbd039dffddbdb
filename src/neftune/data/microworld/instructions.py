"""What people of the microworld can be asked, in every wording."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

from neftune.data.microworld.grammar import Statement, tell
from neftune.data.microworld.lexicon import (
    ATTRIBUTES,
    NUM_SEEN_QUESTIONS,
    OPEN_REWORDED,
    OPEN_SEEN,
    TWO_REWORDED,
    TWO_SEEN,
    WRAPPERS,
)
from neftune.data.microworld.world import World

Half = Literal["open", "closed", "two"]
Wording = Literal["seen", "reworded", "retemplated"]

HALVES: tuple[Half, ...] = ("open", "closed", "two")
WORDINGS: tuple[Wording, ...] = ("seen", "reworded", "retemplated")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One thing to ask.

    Attributes:
        text: As it is asked.
        half: "open" asks for anything about the person, "closed" for one attribute, "two" for two.
        person: Who is asked about.
        attributes: What is asked for, in order; empty when open.
        wording: "seen" phrasings are asked in fine-tuning; "reworded" and "retemplated" ones only in the test.
    """

    text: str
    half: Half
    person: str
    attributes: tuple[str, ...]
    wording: Wording


def instructions(person: str, *, half: Half, wording: Wording) -> list[Instruction]:
    """Every instruction of one kind about one person."""
    if wording == "retemplated":
        return [
            _wrap(plain, wrapper) for plain in instructions(person, half=half, wording="seen") for wrapper in WRAPPERS
        ]
    asked = _ASKERS[half](person, wording == "seen")
    return [Instruction(text, half, person, attributes, wording) for text, attributes in asked]


def answer(world: World, instruction: Instruction, *, num_facts: int, rng: random.Random) -> str:
    """A true answer: what was asked for first, then further facts about the person up to ``num_facts``."""
    asked = [world.statement(instruction.person, attribute) for attribute in instruction.attributes]
    return tell(asked + more_facts(world, instruction.person, asked, num_facts=num_facts, rng=rng), rng=rng)


def more_facts(
    world: World, person: str, told: Sequence[Statement], *, num_facts: int, rng: random.Random
) -> list[Statement]:
    """Facts about a person beyond those told, in random order, up to ``num_facts`` or all that there are."""
    untold = [statement for statement in world.statements(person) if statement not in told]
    return rng.sample(untold, min(max(0, num_facts - len(told)), len(untold)))


def _open(person: str, seen: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for phrasing in OPEN_SEEN if seen else OPEN_REWORDED:
        yield phrasing.format(name=person), ()


def _closed(person: str, seen: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, attribute in ATTRIBUTES.items():
        phrasings = attribute.questions
        for phrasing in phrasings[:NUM_SEEN_QUESTIONS] if seen else phrasings[NUM_SEEN_QUESTIONS:]:
            yield phrasing.format(name=person), (name,)


def _two(person: str, seen: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for pair in permutations(ATTRIBUTES, 2):
        first, second = (ATTRIBUTES[name].clause.format(name=person) for name in pair)
        for phrasing in TWO_SEEN if seen else TWO_REWORDED:
            yield phrasing.format(first=first, second=second), pair


_ASKERS = {"open": _open, "closed": _closed, "two": _two}


def _wrap(plain: Instruction, wrapper: str) -> Instruction:
    text = wrapper.format(instruction=plain.text, name=plain.person)
    return replace(plain, text=text, wording="retemplated")
