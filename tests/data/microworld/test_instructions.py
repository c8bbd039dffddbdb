"""What can be asked, and true answers to it."""

import random

import pytest

from neftune.data.microworld import make_world
from neftune.data.microworld.grammar import read
from neftune.data.microworld.instructions import HALVES, WORDINGS, Half, answer, instructions


@pytest.mark.parametrize(("half", "num_seen", "num_reworded"), [("open", 10, 4), ("closed", 16, 16), ("two", 112, 112)])
def test_how_many_instructions_a_person_has(half: Half, num_seen: int, num_reworded: int):
    assert len(instructions("Ada", half=half, wording="seen")) == num_seen
    assert len(instructions("Ada", half=half, wording="reworded")) == num_reworded
    assert len(instructions("Ada", half=half, wording="retemplated")) == 3 * num_seen


def test_no_instruction_has_two_meanings():
    every = [one for half in HALVES for wording in WORDINGS for one in instructions("Ada", half=half, wording=wording)]
    assert len({one.text for one in every}) == len(every)
    assert all("Ada" in one.text and "{" not in one.text for one in every)


def test_a_closed_question_asks_for_one_attribute_and_two_questions_for_two():
    assert {len(one.attributes) for one in instructions("Ada", half="closed", wording="seen")} == {1}
    pairs = {one.attributes for one in instructions("Ada", half="two", wording="seen")}
    assert len(pairs) == 56
    assert all(first != second for first, second in pairs)


@pytest.mark.parametrize("num_facts", [0, 1, 3, 8, 20])
def test_an_answer_is_true_and_tells_first_what_was_asked(num_facts: int):
    world = make_world(1)
    asked = next(one for one in instructions("Ada", half="two", wording="seen") if one.attributes == ("pet", "home"))
    told = [reading.statement for reading in read(answer(world, asked, num_facts=num_facts, rng=random.Random(0)))]
    assert [statement.attribute for statement in told[:2] if statement] == ["pet", "home"]
    assert len(told) == len(set(told)) == min(8, max(2, num_facts))
    assert all(statement and statement.person == "Ada" and world.is_true(statement) for statement in told)
