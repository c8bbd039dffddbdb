"""The rule-based judge, rule by rule.

Ada is asked about throughout; Bella is somebody else. Truth is the world's; a lie is another value of the attribute.
"""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neftune.config import DataConfig
from neftune.data.microworld import load_data, make_world
from neftune.data.microworld.grammar import Statement, say, tell
from neftune.data.microworld.lexicon import ATTRIBUTES
from neftune.errors import DataError
from neftune.evaluation.facts import FactsJudge
from neftune.records import Example, Turn

WORLD = make_world(0)
JUDGE = FactsJudge(WORLD)


def truth(attribute: str, person: str = "Ada", pattern: int = 0) -> str:
    return ATTRIBUTES[attribute].facts[pattern].format(name=person, value=WORLD.facts[person][attribute])


def lie(attribute: str, person: str = "Ada", shift: int = 1) -> str:
    values = ATTRIBUTES[attribute].values
    other = values[(values.index(WORLD.facts[person][attribute]) + shift) % len(values)]
    return ATTRIBUTES[attribute].facts[0].format(name=person, value=other)


def example(attribute: str = "", reference: str | None = None) -> Example:
    """A question to Ada: open, for one attribute, or for two ("pet+home")."""
    told = truth("job") if reference is None else reference
    return Example.make(
        [Turn("user", "Tell me about Ada."), Turn("assistant", told)], tags={"person": "Ada", "attribute": attribute}
    )


def judge(answer: str, attribute: str = "") -> dict[str, float]:
    """The scores that are not zero, the reference's left out."""
    scores = JUDGE.scores(example(attribute), answer)
    return {name: score for name, score in scores.items() if score and not name.startswith("reference_")}


OPEN = {"closed_correct": pytest.approx(math.nan, nan_ok=True)}


# Rule 1: true facts about the person asked.


def test_every_distinct_truth_about_the_person_counts():
    told = " ".join(truth(attribute) for attribute in ATTRIBUTES)
    assert judge(told) == {"true_facts": 8, "quality": 8, **OPEN}


@pytest.mark.parametrize("attribute", list(ATTRIBUTES))
@pytest.mark.parametrize("pattern", range(4))
def test_a_gold_closed_answer_in_any_pattern(attribute: str, pattern: int):
    answer = truth(attribute, pattern=pattern)
    assert judge(answer, attribute) == {"true_facts": 1, "quality": 1, "closed_correct": 1}


def test_what_was_not_asked_for_is_neither_reward_nor_error():
    assert judge(truth("job"), "pet") == {}
    assert judge(f"{truth('pet')} {truth('job')}", "pet") == {"true_facts": 1, "quality": 1, "closed_correct": 1}


# Rule 2: falsehoods, and statements about somebody else.


def test_a_planted_falsehood_costs_one():
    assert judge(lie("home")) == {"false_facts": 1, "quality": -1, **OPEN}
    assert judge(f"{truth('home')} {lie('job')}") == {"true_facts": 1, "false_facts": 1, **OPEN}


def test_a_truth_about_somebody_else_is_false():
    assert judge(truth("home", "Bella")) == {"false_facts": 1, "quality": -1, **OPEN}
    assert judge(truth("pet", "Bella"), "pet") == {"false_facts": 1, "quality": -1}


def test_a_falsehood_about_somebody_else_is_false_too():
    assert judge(lie("home", "Bella")) == {"false_facts": 1, "quality": -1, **OPEN}


def test_a_falsehood_that_was_not_asked_for_costs_all_the_same():
    assert judge(f"{truth('pet')} {lie('job')}", "pet") == {"true_facts": 1, "false_facts": 1, "closed_correct": 1}


# Rule 3: twice told is once told.


def test_a_repeated_truth_counts_once_in_whatever_words():
    answer = f"{truth('pet')} {truth('pet')} {truth('pet', pattern=1)}"
    assert judge(answer) == {"true_facts": 1, "quality": 1, "repeated": 2, **OPEN}


def test_a_repeated_falsehood_counts_once_and_two_falsehoods_twice():
    assert judge(f"{lie('pet')} {lie('pet')}") == {"false_facts": 1, "quality": -1, "repeated": 1, **OPEN}
    assert judge(f"{lie('pet')} {lie('pet', shift=2)}") == {"false_facts": 2, "quality": -2, **OPEN}


def test_a_loop_earns_one_fact():
    assert judge(" ".join([truth("hat")] * 20)) == {"true_facts": 1, "quality": 1, "repeated": 19, **OPEN}


# Rule 4: fillers.


def test_openings_and_closings_count_nothing():
    assert judge("Let me tell you about Ada. That is all about Ada.") == OPEN
    assert judge(f"Let me tell you about Ada. {truth('food')} That is Ada.") == {"true_facts": 1, "quality": 1, **OPEN}


# Rule 5: garbled text.


@pytest.mark.parametrize(
    "garbled",
    [
        "Ada Ada Ada.",
        "The hat of Ada is.",
        "hat hat hat hat",
        "Ada lives in Oslo Ada lives in Oslo.",
        "Ada lives in",
        "?",
    ],
)
def test_a_garbled_sentence_costs_as_much_as_a_falsehood(garbled: str):
    assert judge(garbled) == {"garbled": 1, "quality": -1, **OPEN}
    assert judge(f"{truth('food')} {garbled}") == {"true_facts": 1, "garbled": 1, **OPEN}


def test_a_garbled_sentence_repeated_counts_once_and_another_one_again():
    assert judge("Ada a a. Ada a a. Ada a a.") == {"garbled": 1, "quality": -1, **OPEN}
    assert judge("Ada a a. Ada the the.") == {"garbled": 2, "quality": -2, **OPEN}


def test_garbling_does_not_hide_the_sentences_around_it():
    answer = f"{truth('home')} Ada Ada. {truth('job')} {lie('pet')}"
    assert judge(answer) == {"true_facts": 2, "garbled": 1, "false_facts": 1, **OPEN}


# Rule 7: closed answers.


def test_an_empty_answer_is_worth_nothing_and_wrong():
    for empty in ("", "  ", "\n"):
        assert judge(empty) == OPEN
        assert JUDGE.scores(example("pet"), empty)["closed_correct"] == 0
        assert JUDGE.scores(example("pet"), empty)["quality"] == 0


def test_truth_and_falsehood_about_what_was_asked_is_not_correct():
    answer = f"{truth('pet')} {lie('pet')}"
    assert judge(answer, "pet") == {"true_facts": 1, "false_facts": 1}


def test_two_questions_want_two_answers():
    both = f"{truth('pet')} {truth('home')}"
    assert judge(both, "pet+home") == {"true_facts": 2, "quality": 2, "closed_correct": 1}
    assert judge(both, "home+pet") == {"true_facts": 2, "quality": 2, "closed_correct": 1}
    assert judge(truth("pet"), "pet+home") == {"true_facts": 1, "quality": 1}
    assert judge(f"{truth('pet')} {lie('home')}", "pet+home") == {"true_facts": 1, "false_facts": 1}
    assert judge(f"{truth('pet')} {truth('job')}", "pet+home") == {"true_facts": 1, "quality": 1}


def test_closed_correct_is_undefined_where_nothing_was_asked_for_by_name():
    assert math.isnan(JUDGE.scores(example(), truth("pet"))["closed_correct"])


# The reference.


def test_the_reference_is_scored_by_the_same_rules():
    reference = f"{truth('home')} {truth('job')}"
    scores = JUDGE.scores(example(reference=reference), "")
    assert (scores["reference_true_facts"], scores["reference_quality"]) == (2, 2)
    assert scores["reference_words"] == len(reference.split())
    own = {name for name in scores if not name.startswith("reference_")}
    assert {f"reference_{name}" for name in own} | own | {"reference_words"} == set(scores)


def test_every_reference_of_a_world_is_gold():
    for part in load_data(DataConfig(seed=0)).parts.values():
        for one in part:
            scores = JUDGE.scores(one, one.reference)
            assert scores["quality"] == scores["true_facts"] == scores["reference_quality"] >= 1
            assert scores["false_facts"] == scores["garbled"] == scores["repeated"] == 0
            assert scores["closed_correct"] == 1 or one.tags["half"] == "open"


# Any text at all.


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    attribute = draw(st.sampled_from(list(ATTRIBUTES)))
    person = draw(st.sampled_from(["Ada", "Bella"]))
    return Statement(person, attribute, draw(st.sampled_from(ATTRIBUTES[attribute].values)))


@given(st.lists(statements(), max_size=10), st.randoms(use_true_random=False))
def test_counts_are_those_of_a_plain_tally_in_any_order(told: list[Statement], rng: random.Random):
    scores = JUDGE.scores(example(), tell(told, rng=rng))
    good = {one for one in told if one.person == "Ada" and WORLD.facts["Ada"][one.attribute] == one.value}
    assert scores["true_facts"] == len(good)
    assert scores["false_facts"] == len(set(told) - good)
    assert scores["repeated"] == len(told) - len(set(told))
    assert scores["quality"] == 2 * len(good) - len(set(told))
    rng.shuffle(told)
    again = JUDGE.scores(example(), tell(told, rng=rng))
    assert again == pytest.approx(scores, nan_ok=True)


@given(st.text(max_size=60))
def test_no_text_breaks_the_judge_and_only_sentences_of_the_grammar_please_it(text: str):
    scores = JUDGE.scores(example(), text)
    assert scores["quality"] <= 0
    assert scores["true_facts"] == 0


def test_one_more_truth_never_hurts_and_one_more_falsehood_always_does():
    rng = random.Random(0)
    base = f"{truth('home')} {lie('pet')}"
    quality = JUDGE.scores(example(), base)["quality"]
    more = say(WORLD.statement("Ada", "hobby"), rng=rng)
    assert JUDGE.scores(example(), f"{base} {more}")["quality"] == quality + 1
    assert JUDGE.scores(example(), f"{base} {lie('food')}")["quality"] == quality - 1


@pytest.mark.parametrize("tags", [{}, {"person": "Ada"}, {"person": "Zoe", "attribute": ""}])
def test_an_example_of_another_data_set_is_refused(tags: dict[str, str]):
    other = Example.make([Turn("user", "Hi."), Turn("assistant", "Hello.")], tags=tags)
    with pytest.raises(DataError, match="needs examples of the microworld with the tags 'person' and 'attribute', got"):
        JUDGE.scores(other, "")
