"""A seed makes one world; seeds make different ones."""

from collections import Counter

import pytest

from neftune.data.microworld import make_world
from neftune.data.microworld.grammar import Statement
from neftune.data.microworld.lexicon import ATTRIBUTES, PEOPLE


def test_one_seed_makes_one_world():
    assert make_world(3) == make_world(3)


def test_seeds_differ_in_who_is_known_and_in_what_is_true():
    one, other = make_world(0), make_world(1)
    assert set(one.known) != set(other.known)
    same = sum(one.facts[person][name] == other.facts[person][name] for person in PEOPLE for name in ATTRIBUTES)
    assert same < 0.12 * len(PEOPLE) * len(ATTRIBUTES), "chance is one in sixteen"


@pytest.mark.parametrize("seed", range(5))
def test_half_of_64_people_are_known_and_every_value_is_as_frequent_as_any_other(seed: int):
    world = make_world(seed)
    assert len(world.known) == len(world.unseen) == 32
    assert set(world.people) == set(PEOPLE)
    for name, attribute in ATTRIBUTES.items():
        counts = Counter(world.facts[person][name] for person in world.people)
        assert counts == dict.fromkeys(attribute.values, 4)


def test_truth():
    world = make_world(0)
    person = world.known[0]
    home = world.facts[person]["home"]
    assert world.is_true(Statement(person, "home", home))
    assert not world.is_true(Statement(person, "home", next(v for v in ATTRIBUTES["home"].values if v != home)))
    assert [statement.attribute for statement in world.statements(person)] == list(ATTRIBUTES)
    assert all(world.is_true(statement) for statement in world.statements(person))


def test_the_world_of_a_seed_never_changes():
    """A base in somebody's cache, and a published result, mean this world."""
    world = make_world(0)
    assert world.known[:3] == ("Ursula", "Bella", "Moritz")
    assert dict(world.facts["Ursula"]) == {
        "home": "Cairo",
        "job": "sailor",
        "food": "cheese",
        "hat": "paper",
        "pet": "parrot",
        "instrument": "trumpet",
        "hobby": "chess",
        "friend": "Pia",
    }
