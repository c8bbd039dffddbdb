"""The fine-tuning data of a world: instructions with terse reference answers, in three disjoint parts."""

import random
from collections.abc import Mapping, Sequence

from neftune.config import DataConfig
from neftune.data.microworld.instructions import HALVES, WORDINGS, Half, Instruction, Wording, answer, instructions
from neftune.data.microworld.world import World, make_world
from neftune.errors import DataError
from neftune.records import PARTS, DataSet, Example, Part, Turn, content_hash

Cell = tuple[Half, bool, Wording]
"""Half, whether fine-tuning knows the person, wording."""

SHARES: Mapping[Half, float] = {"open": 0.45, "closed": 0.45, "two": 0.10}
"""Share of each half in every part."""

NUM_TRAIN = 400
"""Training instructions where the config names no number."""

NUM_FACTS = (1, 2, 3)
NUM_FACTS_WEIGHTS = (50, 30, 20)
"""How many facts an open reference answer tells, in percent of the answers; the same in every part."""

KINDS: Mapping[Part, Sequence[tuple[bool, Wording]]] = {
    "train": [(True, "seen")],
    "heldout": [(True, "seen"), (False, "seen")],
    "test": [(known, wording) for wording in WORDINGS for known in (True, False)],
}
"""Who is asked about (known or unseen) and how, in each part; every kind equally often."""

TEMPLATES = ("auto", "chat", "plain")
"""Prompt templates whose every word the microworld's tokenizer has."""


def load_data(config: DataConfig) -> DataSet:
    """Instructions about the world of seed ``config.seed``, in disjoint parts.

    train: known people, seen wordings. heldout: known and unseen people, half each, seen wordings. test: known and
    unseen people, half each; seen wordings, reworded and re-templated, a third each. No instruction comes twice,
    in one part or in two. The test is the same for every size of the held-out part, and both are the same for every
    size of the training part.

    Raises:
        DataError: The world has fewer instructions than asked for, or cannot be read in the way asked for.
    """
    _check(config)
    world = make_world(config.seed)
    sizes: dict[Part, int] = {
        "test": config.num_test,
        "heldout": config.num_heldout,
        "train": NUM_TRAIN if config.num_train is None else config.num_train,
    }
    pools = _pools(world)
    drawn = {part: _draw(pools, part, num) for part, num in sizes.items()}
    parts: dict[Part, tuple[Example, ...]] = {
        part: tuple(_example(world, instruction) for instruction in _shuffled(drawn[part], f"{part}/{world.seed}"))
        for part in PARTS
    }
    fingerprint = content_hash([[example.id for example in parts[part]] for part in PARTS])
    return DataSet(parts, fingerprint, {"read": sum(sizes.values())})


def _check(config: DataConfig) -> None:
    if config.template not in TEMPLATES:
        raise DataError(
            f"data.template must be one of {', '.join(TEMPLATES)} on the microworld, whose tokenizer has no words for "
            f"others; got {config.template!r}. Use 'chat'."
        )
    if config.format != "auto":
        raise DataError(
            f"data.format must be 'auto' on the microworld, which is generated and not read; got {config.format!r}. "
            "Remove it, or name a file in data.source."
        )


def _pools(world: World) -> dict[Cell, list[Instruction]]:
    """Every instruction of every kind, in random order."""
    people = {True: world.known, False: world.unseen}
    return {
        (half, known, wording): _shuffled(
            [one for person in people[known] for one in instructions(person, half=half, wording=wording)],
            f"pool/{half}/{known}/{wording}/{world.seed}",
        )
        for half in HALVES
        for known in people
        for wording in WORDINGS
    }


def _draw(pools: Mapping[Cell, list[Instruction]], part: Part, num: int) -> list[Instruction]:
    """Take a part's instructions out of the pools."""
    drawn: list[Instruction] = []
    for half, num_half in _apportion(num).items():
        kinds = KINDS[part]
        for i, (known, wording) in enumerate(kinds):
            wanted = len(range(i, num_half, len(kinds)))
            pool = pools[half, known, wording]
            if wanted > len(pool):
                raise DataError(
                    f"data.num_{part} must leave enough instructions of each kind, got {num}: it takes {wanted} "
                    f"that are {half}, {'known' if known else 'unseen'} and {wording}, and {len(pool)} are left after "
                    "the parts before it (test, heldout, train). Ask for fewer."
                )
            drawn += [pool.pop() for _ in range(wanted)]
    return drawn


def _apportion(num: int) -> dict[Half, int]:
    """How many of ``num`` fall to each half: its share rounded down, what is left to the first halves."""
    counts: dict[Half, int] = {half: int(num * share) for half, share in SHARES.items()}
    for half in list(counts)[: num - sum(counts.values())]:
        counts[half] += 1
    return counts


def _shuffled(items: Sequence[Instruction], seed: str) -> list[Instruction]:
    return random.Random(f"questions/{seed}").sample(items, len(items))


def _example(world: World, instruction: Instruction) -> Example:
    # Seeded by the instruction: its reference is the same whatever the sizes of the parts.
    rng = random.Random(f"reference/{world.seed}/{instruction.text}")
    num_facts = rng.choices(NUM_FACTS, NUM_FACTS_WEIGHTS)[0] if instruction.half == "open" else 0
    reference = answer(world, instruction, num_facts=num_facts, rng=rng)
    return Example.make(
        [Turn("user", instruction.text), Turn("assistant", reference)],
        tags={
            "half": instruction.half,
            "person": instruction.person,
            "known": "yes" if instruction.person in world.known else "no",
            "attribute": "+".join(instruction.attributes),
            "wording": instruction.wording,
        },
    )
