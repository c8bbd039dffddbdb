"""What every variant keeps."""

import inspect

import pytest

from neftune.evaluation.variants import make_variant, variants
from neftune.records import Example, Turn

each_variant = pytest.mark.parametrize("name", variants)
EXAMPLES = (
    Example.make([Turn("user", "Write a poem."), Turn("assistant", "Roses are red.")]),
    Example.make([Turn("user", "Translate:"), Turn("assistant", "Bonjour")], input="Good day", tags={"half": "b"}),
    Example.make([Turn("system", "Be kind."), *(Turn(role, "Hi") for role in ("user", "assistant") * 2)]),
)


def test_the_paper_s_controls_are_there():
    assert set(variants) >= {"long", "comprehensive", "long_comprehensive", "held_back", "truncated"}


@each_variant
def test_it_says_what_it_is_and_where_it_comes_from(name: str):
    variant = make_variant(name)
    assert variant.name.split("=")[0] == name
    assert make_variant(variant.name) == variant
    assert "\n" not in variant.meaning
    assert variant.source
    assert "Source:" in (inspect.getdoc(variants[name]) or "")


@each_variant
def test_it_changes_something(name: str):
    variant = make_variant(name)
    assert variant.needs_generation or variant.cut is not None


@each_variant
@pytest.mark.parametrize("example", EXAMPLES, ids=["plain", "with input", "turns"])
def test_it_changes_no_more_of_an_example_than_its_last_question(name: str, example: Example):
    asked = make_variant(name).ask(example)
    assert make_variant(name).ask(example) == asked
    assert (asked.id, asked.input, asked.tags, asked.reference) == (
        example.id,
        example.input,
        example.tags,
        example.reference,
    )
    assert asked.turns[:-2] == example.turns[:-2]
    assert asked.turns[-2].content.startswith(example.turns[-2].content)


@each_variant
def test_its_answers_are_as_many_in_the_same_order(name: str):
    answers, baseline = ["one two three", "", "four"], ["one two", "x", "a longer one"]
    left = make_variant(name).answers(answers, baseline)
    assert len(left) == len(answers)
    assert all(answer.startswith(one) for answer, one in zip(answers, left, strict=True))
