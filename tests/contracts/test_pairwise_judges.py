"""Every registered way of asking which of two answers is better."""

import pytest

from neftune.evaluation.preference.judging import PairwiseJudge, pairwise_judges
from neftune.evaluation.preference.replies import Completion
from neftune.evaluation.preference.templates import parse_template

ENTRIES = list(pairwise_judges.items())


def reply(text: str, first_token: dict[str, float] | None = None) -> Completion:
    return Completion(text, first_token, 1, 1, "stop", "model")


@pytest.mark.parametrize(("name", "judge"), ENTRIES)
def test_it_says_what_it_is_and_shows_both_answers_once(name: str, judge: PairwiseJudge):
    assert judge.summary.endswith(".")
    assert judge.max_tokens >= 1
    turns = parse_template(judge.template).render("THE QUESTION", "FIRST ANSWER", "SECOND ANSWER")
    shown = "\n".join(turn.content for turn in turns)
    assert [shown.count(text) for text in ("THE QUESTION", "FIRST ANSWER", "SECOND ANSWER")] == [1, 1, 1]


@pytest.mark.parametrize(("name", "judge"), ENTRIES)
@pytest.mark.parametrize("text", ["", "I cannot say.", "m M", "[]", "[{'model': 'm', 'rank': 1}]"])
def test_what_is_no_verdict_is_none(name: str, judge: PairwiseJudge, text: str):
    tokens = {"I": -0.1, "The": -2.0} if judge.top_logprobs else None
    assert judge.parse(reply(text, tokens)) is None


@pytest.mark.parametrize(("name", "judge"), ENTRIES)
def test_preferences_lie_between_one_and_two_and_turn_with_the_verdict(name: str, judge: PairwiseJudge):
    ranked = "[{{'model': '{}', 'rank': 1}}, {{'model': '{}', 'rank': 2}}]"
    first, second = ("model_1", "model_2") if "model_1" in judge.template else ("m", "M")
    likely, unlikely = -0.2, -1.7
    one = judge.parse(reply(ranked.format(first, second), {"m": likely, "M": unlikely} if judge.top_logprobs else None))
    two = judge.parse(reply(ranked.format(second, first), {"m": unlikely, "M": likely} if judge.top_logprobs else None))
    assert one is not None
    assert two is not None
    assert 1 <= one < 1.5 < two <= 2
    assert one + two == pytest.approx(3)
