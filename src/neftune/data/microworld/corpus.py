"""The pretraining text: what the base has read of its world.

Half of the words are in a long register (five to eight facts a text), half in a short one (one or two). A third of the
documents tell; the others are a question and its answer under one of five pairs of labels. The base has read every
wording that the test will use: what the test asks is whether fine-tuning on some wordings carries over to the others.
"""

import random
from collections.abc import Iterator, Sequence

from neftune.data.microworld.grammar import tell
from neftune.data.microworld.instructions import HALVES, WORDINGS, Half, Instruction, answer, instructions, more_facts
from neftune.data.microworld.lexicon import CLOSERS, LABELS, OPENERS
from neftune.data.microworld.world import World

LONG_FACTS = (5, 6, 7, 8)
SHORT_FACTS = (1, 1, 2)

LONG_SHARE = 0.25
"""Share of the documents in the long register; being about three times as long, they hold half of the words."""

TELLING_SHARE = 0.35
"""Share of the documents that tell without being asked."""

FRAMED_SHARE = 0.3
"""Share of the long texts with an opening and a closing sentence that state nothing."""

HALVES_WEIGHTS = (20, 65, 15)
"""How often something open, closed and two things are asked, in percent."""

WORDINGS_WEIGHTS = (45, 35, 20)
"""How often in wordings that fine-tuning will use, in others, and re-templated, in percent."""

NUM_WAITING = 8
"""Documents that wait for a row with room for them."""

_Instructions = dict[Half, list[list[Instruction]]]


def documents(world: World, *, people: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Documents about some of a world's people, without end."""
    asked = {person: _all_instructions(person) for person in people}
    while True:
        person = rng.choice(people)
        is_long = rng.random() < LONG_SHARE
        if rng.random() < TELLING_SHARE:
            yield _telling(world, person, is_long=is_long, rng=rng)
        else:
            yield _asking(world, _any(asked[person], rng=rng), is_long=is_long, rng=rng)


def pack(documents: Iterator[list[int]], *, num_rows: int, row_length: int) -> list[list[int]]:
    """Rows filled with whole documents: of a few waiting ones, the longest that fits goes in.

    Args:
        documents: Token ids, their begin and end included; as many documents as it takes.
        num_rows: How many rows to fill.
        row_length: Most tokens in a row; no document may be longer.
    """
    waiting: list[list[int]] = []
    rows: list[list[int]] = []
    while len(rows) < num_rows:
        row: list[int] = []
        while True:
            waiting += [next(documents) for _ in range(NUM_WAITING - len(waiting))]
            fitting = [document for document in waiting if len(row) + len(document) <= row_length]
            if not fitting:
                break
            longest = max(fitting, key=len)
            waiting.remove(longest)
            row += longest
        if not row:
            raise AssertionError(f"a document of the corpus is longer than a row of {row_length} tokens")
        rows.append(row)
    return rows


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


def _all_instructions(person: str) -> _Instructions:
    return {half: [instructions(person, half=half, wording=wording) for wording in WORDINGS] for half in HALVES}


def _any(asked: _Instructions, *, rng: random.Random) -> Instruction:
    wordings = asked[rng.choices(HALVES, HALVES_WEIGHTS)[0]]
    return rng.choice(rng.choices(wordings, WORDINGS_WEIGHTS)[0])
