"""Control arms: what they ask, what they hold back, what they cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neftune.errors import ConfigError, DataError, UnknownNameError
from neftune.evaluation.variants import cut_to_length, make_variant, with_sentence
from neftune.records import Example, Turn


def test_the_paper_s_three_sentences_stand_at_the_end_of_the_last_question():
    turns = [
        Turn("user", "Hi."),
        Turn("assistant", "Hello."),
        Turn("user", "Write a poem"),
        Turn("assistant", "Roses."),
    ]
    example = Example.make(turns, input="about the sea", tags={"half": "a"})
    for name, sentence in (
        ("long", "Generate a long response."),
        ("comprehensive", "Generate a comprehensive response."),
        ("long_comprehensive", "Generate a long and comprehensive response."),
    ):
        asked = make_variant(name).ask(example)
        assert asked.turns == (*turns[:2], Turn("user", f"Write a poem\n{sentence}"), turns[3])
        assert (asked.id, asked.input, asked.tags) == (example.id, example.input, example.tags)


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("Why is it so? ", "Why is it so? Be long."),
        ("Stop!", "Stop! Be long."),
        ("Sort this:\n3, 1, 2\n", "Sort this:\n3, 1, 2\nBe long."),
        ("", "Be long."),
    ],
)
def test_a_sentence_is_one_of_its_own(question: str, asked: str):
    assert with_sentence(question, "Be long.") == asked


def test_held_back_says_how_long_and_changes_no_prompt():
    example = Example.make([Turn("user", "Hi"), Turn("assistant", "Hello.")])
    default, asked = make_variant("held_back"), make_variant("held_back=40")
    assert (default.min_new_tokens, default.name) == (250, "held_back=250")
    assert (asked.min_new_tokens, asked.name) == (40, "held_back=40")
    assert "40 new tokens" in asked.meaning
    assert asked.ask(example) is example
    assert asked.needs_generation


@pytest.mark.parametrize(
    ("answer", "baseline", "cut"),
    [
        ("one two three", "12345678", "one two"),
        ("one two three", "1234567", "one two"),
        ("one two three", "123456", "one"),
        ("one two three", "1", "o"),
        ("\u6771\u4eac\u306f\u5927\u304d\u3044", "1234", "\u6771\u4eac\u306f\u5927"),
        ("one two", "a longer answer", "one two"),
        ("one\n\ntwo three", "123456", "one"),
        ("one two ", "1234567", "one two"),
        ("", "one", ""),
        ("one", "", ""),
    ],
)
def test_an_answer_is_cut_at_a_word_to_the_baseline_s_length(answer: str, baseline: str, cut: str):
    assert cut_to_length(answer, baseline) == cut


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_cut_answer_is_a_beginning_of_whole_words_no_longer_than_the_baseline(answer: str, baseline: str):
    cut = cut_to_length(answer, baseline)
    assert len(cut) <= len(baseline)
    assert answer.startswith(cut)
    if not any(letter.isspace() for letter in answer.rstrip()[: len(baseline) + 1]):
        assert cut == answer.rstrip()[: len(baseline)]
        return
    assert cut.split() == answer.split()[: len(cut.split())]
    longer = answer.split()[: len(cut.split()) + 1]
    if len(longer) > len(cut.split()):
        end = answer.index(longer[-1], len(cut)) + len(longer[-1])
        assert end > len(baseline), "one more word would not have fitted"


def test_truncated_needs_the_baseline_s_answers_and_no_generation():
    variant = make_variant("truncated")
    assert not variant.needs_generation
    assert variant.answers(["one two", "three"], ["1234", "12345"]) == ["one", "three"]
    with pytest.raises(DataError, match="one baseline answer for each of 2 answers, got none"):
        variant.answers(["one two", "three"])
    with pytest.raises(DataError, match="for each of 2 answers, got 1"):
        variant.answers(["one two", "three"], ["x"])
    assert make_variant("long").answers(["one two"]) == ["one two"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("lang", UnknownNameError, "Did you mean 'long'"),
        ("long=4", ConfigError, "takes no number, got 'long=4'"),
        ("held_back=ten", ConfigError, "a whole number of tokens, got 'held_back=ten'"),
        ("held_back=", ConfigError, "a whole number"),
        ("held_back=0", ConfigError, "at least 1 token, got 0"),
    ],
)
def test_what_no_variant_is_called(text: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_variant(text)
