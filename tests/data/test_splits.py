"""Parts depend on what an example says, not on where it stands."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neftune.config import DataConfig
from neftune.data.splits import cut_parts
from neftune.records import PARTS, Example, Turn


def example(question: str, answer: str = "a", input: str = "") -> Example:
    return Example.make([Turn("user", question), Turn("assistant", answer)], input=input)


def config(num_train: int | None = None, num_heldout: int = 2, num_test: int = 3, seed: int = 0) -> DataConfig:
    return DataConfig(source="x", num_train=num_train, num_heldout=num_heldout, num_test=num_test, seed=seed)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=90, max_size=120), st.integers(0, 5))
def test_parts_share_no_prompt_and_every_example_is_accounted_for(pairs: list[tuple[int, int]], seed: int):
    given_examples = [example(f"q{question}", f"a{answer}") for question, answer in pairs]
    given_examples += [example(f"more {n}") for n in range(10)]
    parts, counts = cut_parts(given_examples, config(seed=seed))
    prompts = {part: {one.turns[0].content for one in parts[part]} for part in PARTS}
    assert not prompts["train"] & prompts["heldout"]
    assert not prompts["train"] & prompts["test"]
    assert not prompts["heldout"] & prompts["test"]
    assert (len(parts["heldout"]), len(parts["test"])) == (2, 3)
    assert len(prompts["heldout"]) == 2
    assert len(prompts["test"]) == 3
    ids = [one.id for part in PARTS for one in parts[part]]
    assert len(set(ids)) == len(ids)
    assert sum(counts.values()) + len(ids) == len(given_examples)


def test_order_does_not_matter():
    examples = [example(f"q{n % 25}", f"a{n}") for n in range(40)]
    shuffled = random.Random(0).sample(examples, len(examples))
    assert cut_parts(shuffled, config()).parts == cut_parts(examples, config()).parts


def test_seeds_differ():
    examples = [example(f"q{n}") for n in range(60)]
    assert cut_parts(examples, config(seed=0)).parts["test"] != cut_parts(examples, config(seed=1)).parts["test"]


def test_a_larger_draw_only_adds():
    examples = [example(f"q{n}") for n in range(60)]
    small, large = (cut_parts(examples, config(num_train=number)).parts for number in (10, 20))
    assert large["train"][:10] == small["train"]
    assert (large["test"], large["heldout"]) == (small["test"], small["heldout"])


def test_another_example_moves_at_most_one_across_each_border():
    examples = [example(f"q{n}") for n in range(60)]
    before, after = (cut_parts(examples[:number], config(num_heldout=20, num_test=20)).parts for number in (59, 60))
    for part in ("heldout", "test"):
        assert len({one.id for one in before[part]} ^ {one.id for one in after[part]}) <= 2


def test_case_and_spacing_make_no_new_prompt_but_another_input_does():
    same = [example("What is it?", "a"), example(" what  is IT?\n", "b")]
    for seed in range(20):
        parts, counts = cut_parts([*same, *(example(f"q{n}") for n in range(8))], config(seed=seed))
        num_trained = sum(one in parts["train"] for one in same)
        assert (num_trained, counts["same_prompt_dropped"]) in [(2, 0), (0, 1)]
    inputs = [example("Add.", str(n), input=f"{n}") for n in range(6)]
    assert cut_parts(inputs, config()).counts["same_prompt_dropped"] == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (example("Translate 7", input="casa"), example("Translate 7\ncasa")),
        (example("Caf\u00e9?"), example("Cafe\u0301?")),
        (example("Sum\u00a0\uff11"), example("sum 1")),
        (example("Stra\u00dfe"), example("STRASSE")),
    ],
    ids=["input", "accents", "widths", "sharp s"],
)
def test_one_question_written_in_two_ways_is_never_on_both_sides(one: Example, other: Example):
    for seed in range(10):
        parts, counts = cut_parts([one, other, *(example(f"q{n}") for n in range(8))], config(seed=seed))
        num_trained = sum(given in parts["train"] for given in (one, other))
        assert (num_trained, counts["same_prompt_dropped"]) in [(2, 0), (0, 1)]
