"""The pretraining text: what the base has read of its world.

Half of the words are in a long register (five to eight facts a text), half in a short one (one or two); half of
the documents tell, half are a question and its answer under one of five pairs of labels.
"""

import random
from collections.abc import Iterator, Sequence

from neftune.data.microworld.grammar import tell
from neftune.data.microworld.instructions import HALVES, Instruction, answer, instructions, more_facts
from neftune.data.microworld.lexicon import CLOSERS, LABELS, OPENERS
from neftune.data.microworld.world import World

LONG_FACTS = (5, 6, 7, 8)
SHORT_FACTS = (1, 1, 2)

LONG_SHARE = 0.25
"""Share of the documents in the long register; being about three times as long, they hold half of the words."""

FRAMED_SHARE = 0.3
"""Share of the long texts with an opening and a closing sentence that state nothing."""


def documents(world: World, *, people: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Documents about some of a world's people, without end."""
    asked = {person: _all_instructions(person) for person in people}
    while True:
        person = rng.choice(people)
        is_long = rng.random() < LONG_SHARE
        if rng.random() < 0.5:
            yield _telling(world, person, is_long=is_long, rng=rng)
        else:
            yield _asking(world, _any(asked[person], rng=rng), is_long=is_long, rng=rng)


def _telling(world: World, person: str, *, is_long: bool, rng: random.Random) -> str:
    num_facts = rng.choice(LONG_FACTS if is_long else SHORT_FACTS)
    text = tell(more_facts(world, person, [], num_facts=num_facts, rng=rng), rng=rng)
    return _frame(text, person, rng=rng) if is_long else text


def _asking(world: World, instruction: Instruction, *, is_long: bool, rng: random.Random) -> str:
    num_facts = rng.choice(LONG_FACTS if is_long else SHORT_FACTS) if is_long or instruction.half == "open" else 0
    text = answer(world, instruction, num_facts=num_facts, rng=rng)
    if is_long and instruction.half == "open":
        text = _frame(text, instruction.person, rng=rng)
    asker, answerer = rng.choice(LABELS)
    return f"{asker} {instruction.text}\n{answerer} {text}"


def _frame(text: str, person: str, *, rng: random.Random) -> str:
    if rng.random() >= FRAMED_SHARE:
        return text
    return f"{rng.choice(OPENERS)} {text} {rng.choice(CLOSERS)}".format(name=person)


def _all_instructions(person: str) -> list[list[Instruction]]:
    return [
        [*instructions(person, half=half, wording="seen"), *instructions(person, half=half, wording="reworded")]
        for half in HALVES
    ]


def _any(halves: list[list[Instruction]], *, rng: random.Random) -> Instruction:
    return rng.choice(rng.choices(halves, weights=(45, 45, 10))[0])
