"""Fine-tuning data: disjoint parts, balanced, obeyed sizes, true references."""

from collections import Counter

import pytest

from neftune.config import DataConfig
from neftune.data.microworld import load_data, make_world
from neftune.data.microworld.grammar import read
from neftune.errors import DataError
from neftune.records import PARTS, Example

DATA = load_data(DataConfig(seed=1, num_heldout=200, num_test=300))


def tags(part: str, name: str) -> Counter[str]:
    return Counter(example.tags[name] for example in DATA.parts[part])  # pyright: ignore[reportArgumentType]


def prompts(part: str) -> set[str]:
    return {example.turns[0].content for example in DATA.parts[part]}  # pyright: ignore[reportArgumentType]


def test_sizes_are_obeyed():
    assert {part: len(examples) for part, examples in DATA.parts.items()} == {"train": 400, "heldout": 200, "test": 300}
    assert DATA.counts == {"read": 900}
    for num in (1, 2, 3, 7):
        data = load_data(DataConfig(num_train=num, num_heldout=num, num_test=num))
        assert [len(data.parts[part]) for part in PARTS] == [num] * 3


def test_no_instruction_comes_twice():
    assert len(prompts("train") | prompts("heldout") | prompts("test")) == 900
    assert len({example.id for part in PARTS for example in DATA.parts[part]}) == 900


def test_halves():
    assert tags("train", "half") == {"open": 180, "closed": 180, "two": 40}
    assert tags("test", "half") == {"open": 135, "closed": 135, "two": 30}


def test_who_is_asked_about_and_how():
    world = make_world(1)
    assert tags("train", "known") == {"yes": 400}
    assert tags("train", "wording") == tags("heldout", "wording") + Counter(seen=200) == {"seen": 400}
    assert tags("heldout", "known") == {"yes": 100, "no": 100}
    assert max(tags("test", "known").values()) - min(tags("test", "known").values()) <= 3
    assert set(tags("test", "wording")) == {"seen", "reworded", "retemplated"}
    assert all(abs(num - 100) <= 4 for num in tags("test", "wording").values())
    for example in DATA.parts["test"]:
        assert (example.tags["person"] in world.known) == (example.tags["known"] == "yes")


def test_fine_tuning_never_names_an_unseen_person():
    world = make_world(1)
    words = " ".join(turn.content for example in DATA.parts["train"] for turn in example.turns).replace("'", " ")
    assert not set(world.unseen) & set(words.replace(".", " ").replace("?", " ").split())


def told(example: Example) -> list[str]:
    """Attributes that the reference tells; each sentence must be a truth about the person asked."""
    world = make_world(1)
    statements = [reading.statement for reading in read(example.reference)]
    assert all(one and one.person == example.tags["person"] and world.is_true(one) for one in statements)
    return [one.attribute for one in statements if one]


def test_references_are_true_and_terse():
    for part in PARTS:
        for example in DATA.parts[part]:
            attributes = told(example)
            assert len(attributes) == len(set(attributes))
            if example.tags["half"] == "open":
                assert 1 <= len(attributes) <= 3
            else:
                assert attributes == example.tags["attribute"].split("+")


def test_open_references_have_the_training_lengths_in_every_part():
    for part in PARTS:
        lengths = Counter(len(told(example)) for example in DATA.parts[part] if example.tags["half"] == "open")
        share = {num: 100 * lengths[num] / lengths.total() for num in lengths}
        assert share == pytest.approx({1: 50, 2: 30, 3: 20}, abs=12), part


def test_one_config_one_data_set_and_seeds_differ():
    config = DataConfig(seed=1, num_heldout=200, num_test=300)
    assert load_data(config) == DATA
    assert load_data(config.model_copy(update={"seed": 2})).fingerprint != DATA.fingerprint


def test_the_test_does_not_depend_on_the_sizes_of_the_other_parts():
    other = load_data(DataConfig(seed=1, num_train=100, num_heldout=50, num_test=300))
    assert other.parts["test"] == DATA.parts["test"]
    fewer = load_data(DataConfig(seed=1, num_train=100, num_heldout=200, num_test=300))
    assert fewer.parts["heldout"] == DATA.parts["heldout"]


@pytest.mark.parametrize(("name", "num"), [("num_train", 1000), ("num_heldout", 2000), ("num_test", 2000)])
def test_a_world_too_small_is_an_error(name: str, num: int):
    with pytest.raises(DataError, match=f"data.{name} must leave enough .* got {num}: it takes .* Ask for fewer"):
        load_data(DataConfig.model_validate({name: num}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "alpaca"}, "data.template must be one of auto, chat, plain .* got 'alpaca'. Use 'chat'"),
        ({"format": "alpaca"}, "data.format must be 'auto' .* got 'alpaca'"),
    ],
)
def test_settings_that_the_microworld_cannot_obey_are_refused(settings: dict[str, str], message: str):
    with pytest.raises(DataError, match=message):
        load_data(DataConfig.model_validate(settings))
