"""What the grammar writes it reads back, and nothing else passes for a sentence."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neftune.data.microworld.grammar import Statement, read, read_sentence, say, split_sentences, tell
from neftune.data.microworld.lexicon import ATTRIBUTES, CLOSERS, OPENERS, PEOPLE


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    attribute = draw(st.sampled_from(list(ATTRIBUTES)))
    return Statement(draw(st.sampled_from(PEOPLE)), attribute, draw(st.sampled_from(ATTRIBUTES[attribute].values)))


def test_the_lexicon_is_one_word_one_meaning():
    values = [value for attribute in ATTRIBUTES.values() for value in attribute.values]
    assert len({*values, *PEOPLE}) == len(values) + len(PEOPLE) == 8 * 16 + 64
    patterns = [pattern for attribute in ATTRIBUTES.values() for pattern in attribute.facts]
    assert len(set(patterns)) == 8 * 4
    questions = [question for attribute in ATTRIBUTES.values() for question in attribute.questions]
    assert len(set(questions)) == 8 * 4


def test_every_pattern_with_every_value_is_read_as_what_it_was_written_from():
    for name, attribute in ATTRIBUTES.items():
        for pattern in attribute.facts:
            for value in attribute.values:
                reading = read_sentence(pattern.format(name="Ada", value=value))
                assert reading.statement == Statement("Ada", name, value)


@given(st.lists(statements(), max_size=12), st.integers(0, 2**32))
def test_a_text_is_read_sentence_by_sentence(told: list[Statement], seed: int):
    text = tell(told, rng=random.Random(seed))
    assert [reading.statement for reading in read(text)] == told
    assert {reading.kind for reading in read(text)} <= {"fact"}


@given(statements(), st.integers(0, 2**32), st.data())
def test_a_sentence_with_a_word_missing_or_doubled_is_garbled(told: Statement, seed: int, data: st.DataObject):
    words = say(told, rng=random.Random(seed)).split()
    at = data.draw(st.integers(0, len(words) - 1))
    doubled = " ".join(words[: at + 1] + words[at:])
    missing = " ".join(words[:at] + words[at + 1 :])
    assert any(reading.kind == "garbled" for reading in read(doubled))
    assert all(reading.kind == "garbled" for reading in read(missing))


def test_openers_and_closers_are_fillers():
    for pattern in OPENERS + CLOSERS:
        reading = read_sentence(pattern.format(name="Ada"))
        assert (reading.kind, reading.statement) == ("filler", None)


@pytest.mark.parametrize(
    "sentence",
    [
        "Ada lives in Oslo",
        "Ada lives in trumpet.",
        "Ada lives in.",
        "Boris lives in Oslo.",
        "ada lives in Oslo.",
        "Oslo lives in Ada.",
        "Ada Ada lives in Oslo.",
        "Ada lives in Oslo Ada lives in Oslo.",
        "Ada lives in Oslo?",
        "Where does Ada live?",
        ".",
    ],
)
def test_what_the_grammar_cannot_write_is_garbled(sentence: str):
    assert [reading.kind for reading in read(sentence)] == ["garbled"]


def test_two_sentences_are_not_one():
    assert read_sentence("Ada lives in Oslo. Ada keeps a cat.").kind == "garbled"
    assert read_sentence("Now Ada lives in Oslo.").kind == "garbled"


def test_spaces_are_free():
    assert read_sentence("  Ada 's   job is baker .").statement == Statement("Ada", "job", "baker")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("  \n ", []),
        ("One. Two? Three! Four", ["One.", "Two?", "Three!", "Four"]),
        ("One\nTwo.", ["One", "Two."]),
        ("One.. Two.", ["One.", ".", "Two."]),
    ],
)
def test_sentences_end_at_stops_and_line_breaks(text: str, sentences: list[str]):
    assert split_sentences(text) == sentences
