"""The microworld: 64 people, eight attributes each, all drawn from one seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from neftune.data.microworld.grammar import Statement
from neftune.data.microworld.lexicon import ATTRIBUTES, PEOPLE


@dataclass(frozen=True, slots=True)
class World:
    """Who there is and what is true of them.

    Attributes:
        seed: What the world was drawn from.
        known: People that fine-tuning speaks of.
        unseen: People that only pretraining speaks of: the base knows them, fine-tuning never names them.
        facts: Person -> attribute -> value.
    """

    seed: int
    known: tuple[str, ...]
    unseen: tuple[str, ...]
    facts: Mapping[str, Mapping[str, str]]

    @property
    def people(self) -> tuple[str, ...]:
        """Everybody, those known first."""
        return self.known + self.unseen

    def statement(self, person: str, attribute: str) -> Statement:
        """The truth about one attribute of a person."""
        return Statement(person, attribute, self.facts[person][attribute])

    def statements(self, person: str) -> list[Statement]:
        """All that is true of a person."""
        return [self.statement(person, attribute) for attribute in ATTRIBUTES]

    def is_true(self, statement: Statement) -> bool:
        """Whether a statement holds in this world."""
        return self.facts[statement.person][statement.attribute] == statement.value


def make_world(seed: int) -> World:
    """The world of a seed: the same people everywhere, with lives of their own.

    Every value is held by equally many people, so that no answer is a better guess than another.
    """
    rng = random.Random(f"microworld/{seed}")
    people = rng.sample(PEOPLE, len(PEOPLE))
    columns = {name: _deal(attribute.values, len(people), rng=rng) for name, attribute in ATTRIBUTES.items()}
    facts = {person: {name: column[i] for name, column in columns.items()} for i, person in enumerate(people)}
    half = len(people) // 2
    return World(seed, tuple(people[:half]), tuple(people[half:]), facts)


def _deal(values: tuple[str, ...], num_people: int, *, rng: random.Random) -> list[str]:
    hands = [values[i % len(values)] for i in range(num_people)]
    rng.shuffle(hands)
    return hands
