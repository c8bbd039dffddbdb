"""The fine-tuning data of a world: instructions with terse reference answers, in three disjoint parts."""

import random
from collections.abc import Iterator, Sequence
from typing import get_args

from neftune.config import DataConfig
from neftune.data.microworld.instructions import (
    HALVES,
    WORDINGS,
    Half,
    Instruction,
    Wording,
    answer,
    instructions,
)
from neftune.data.microworld.world import World, make_world
from neftune.errors import DataError
from neftune.records import PARTS, DataSet, Example, Part, Turn, content_hash

SHARES: dict[Half, float] = {"open": 0.45, "closed": 0.45, "two": 0.10}
"""Share of each half in every part."""

NUM_TRAIN = 400

NUM_FACTS = (1, 2, 3)
NUM_FACTS_WEIGHTS = (35, 40, 25)
"""How many facts an open reference answer tells, in training and as the reference that answers are judged by."""


def load_data(config: DataConfig) -> DataSet:
    """Instructions about the world of seed ``config.seed``, in disjoint parts.

    train: known people, seen wordings. heldout: known and unseen people in equal numbers, seen wordings.
    test: known and unseen people in equal numbers, a third each in seen wordings, reworded and re-templated.
    No instruction is in two parts or twice in one.

    Raises:
        DataError: The world has fewer instructions than the config asks for.
    """
    world = make_world(config.seed)
    rng = random.Random(f"questions/{world.seed}")
    num_train = NUM_TRAIN if config.num_train is None else config.num_train
    pools = {
        (half, known, wording): _pool(world, half, known=known, wording=wording, rng=rng)
        for half in HALVES
        for known in (True, False)
        for wording in WORDINGS
    }
    seen = [(known, "seen") for known in (True, False)]
    every = [(known, wording) for wording in WORDINGS for known in (True, False)]
    parts: dict[Part, tuple[Example, ...]] = {}
    for part, num, kinds in (
        ("train", num_train, [(True, "seen")]),
        ("heldout", config.num_heldout, seen),
        ("test", config.num_test, every),
    ):
        drawn = [
            pools[half, *kinds[i % len(kinds)]].pop()
            for half, n in zip(HALVES, _split(num, list(SHARES.values())), strict=True)
            for i in range(n)
        ]
        rng.shuffle(drawn)
        parts[part] = tuple(_example(world, instruction, rng=rng) for instruction in drawn)
    fp = content_hash([[e.id for e in parts[p]] for p in PARTS])
    return DataSet(parts, fp, {"read": sum(map(len, parts.values()))})


def _pool(world: World, half: Half, *, known: bool, wording: Wording, rng: random.Random) -> list[Instruction]:
    people = world.known if known else world.unseen
    pool = [i for p in people for i in instructions(p, half=half, wording=wording)]
    rng.shuffle(pool)
    return pool


def _split(num: int, shares: Sequence[float]) -> list[int]:
    counts = [int(num * share) for share in shares]
    for i in range(num - sum(counts)):
        counts[i % len(counts)] += 1
    return counts


def _example(world: World, instruction: Instruction, *, rng: random.Random) -> Example:
    num = rng.choices(NUM_FACTS, NUM_FACTS_WEIGHTS)[0] if instruction.half == "open" else 0
    reference = answer(world, instruction, num_facts=num, rng=rng)
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
