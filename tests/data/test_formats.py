"""Rows become turns, or a sentence that says what is wrong with them."""

from typing import Any

import pytest

from neftune.data.formats import detect_format, formats
from neftune.errors import DataError
from neftune.records import Turn

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
MESSAGES = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PROMPT = {"prompt": "q", "completion": "a"}


def turns_of(fields: dict[str, Any], name: str = "auto") -> list[tuple[str, str]]:
    name = detect_format(fields) if name == "auto" else name
    return [(turn.role, turn.content) for turn in formats[name].parse(fields).turns]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (ALPACA, "alpaca"),
        ({"instruction": "q", "context": "c", "response": "a", "category": "open_qa"}, "alpaca"),
        ({**ALPACA, "history": []}, "alpaca"),
        (SHAREGPT, "conversations"),
        (MESSAGES, "conversations"),
        ({"conversations": ["q", "a"], "source": "stackexchange"}, "conversations"),
        ({"prompt": "q", "prompt_id": "1", **MESSAGES}, "conversations"),
        (PROMPT, "prompt_completion"),
    ],
)
def test_the_format_is_known_by_the_fields(fields: dict[str, Any], name: str):
    assert detect_format(fields) == name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "a", "label": 1}, "got text, label, which fit no known format"),
        ({}, "got none, which fit no known format"),
        ({**ALPACA, **PROMPT}, "which fit alpaca and prompt_completion"),
    ],
)
def test_fields_that_fit_no_format_or_two_are_named_with_the_formats_known(fields: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said) as caught:
        detect_format(fields)
    for name in formats:
        assert name in str(caught.value)


def test_alpaca_keeps_its_input_apart():
    parsed = formats["alpaca"].parse(ALPACA)
    assert parsed.turns == (Turn("user", "Add."), Turn("assistant", "3"))
    assert parsed.input == "1 2"
    assert formats["alpaca"].parse({"instruction": "q", "input": None, "output": "a"}).input == ""
    assert formats["alpaca"].parse({"instruction": "q", "context": "c", "response": "a"}).input == "c"


def test_alpaca_history_comes_before_the_question():
    turns = turns_of({"instruction": "q2", "output": "a2", "history": [["q1", "a1"]]})
    assert turns == [(USER, "q1"), (ASSISTANT, "a1"), (USER, "q2"), (ASSISTANT, "a2")]


@pytest.mark.parametrize("fields", [SHAREGPT, MESSAGES, PROMPT, {"conversations": ["q", "a"]}])
def test_all_formats_give_the_same_turns(fields: dict[str, Any]):
    assert turns_of(fields) == [(USER, "q"), (ASSISTANT, "a")]


def test_a_system_turn_is_kept_and_an_empty_one_is_none():
    system = {"from": "system", "value": "Be brief."}
    assert turns_of({"conversations": [system, *SHAREGPT["conversations"]]})[0] == (SYSTEM, "Be brief.")
    assert len(turns_of({"conversations": [{**system, "value": " "}, *SHAREGPT["conversations"]]})) == 2


def test_assistant_turns_before_the_first_question_are_left_out_and_counted():
    parsed = formats["conversations"].parse(
        {"conversations": [{"from": "gpt", "value": "x"}, *SHAREGPT["conversations"]]}
    )
    assert [turn.content for turn in parsed.turns] == ["q", "a"]
    assert parsed.num_leading_dropped == 1


def test_a_prompt_of_messages_may_have_a_completion_of_messages():
    fields = {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
    }
    assert turns_of(fields) == [(SYSTEM, "s"), (USER, "q"), (ASSISTANT, "a")]


def message(role: object, text: object) -> dict[str, object]:
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("alpaca", {"output": "a"}, "field instruction is required, got output"),
        ("alpaca", {"instruction": "q"}, "field output or response is required"),
        ("alpaca", {**ALPACA, "output": ""}, "output must hold a response, got an empty one"),
        ("alpaca", {**ALPACA, "output": " \n"}, "output must hold a response, got an empty one"),
        ("alpaca", {**ALPACA, "instruction": ""}, "instruction must hold a prompt, got an empty one"),
        ("alpaca", {**ALPACA, "output": 3}, "output must be text, got int"),
        ("alpaca", {**ALPACA, "output": None}, "output must be text, got NoneType"),
        ("alpaca", {**ALPACA, "input": ["x"]}, "input must be text, got list"),
        ("alpaca", {**ALPACA, "output": "a\ud800"}, "output must be valid UTF-8, got a broken character at position 2"),
        ("alpaca", {**ALPACA, "history": "x"}, "history must be a list of .* pairs, got str"),
        ("alpaca", {**ALPACA, "history": [["q"]]}, "history must be a list of .* pairs, got an entry"),
        ("prompt_completion", {"prompt": "q"}, "field completion is required, got prompt"),
        ("prompt_completion", {"prompt": {}, "completion": "a"}, "prompt must be text, got dict"),
        ("conversations", {"messages": "x"}, "messages must be a list of messages, got str"),
        ("conversations", {"messages": [3]}, r"messages\[0\] must be a message, got int"),
        (
            "conversations",
            {"messages": [{"role": "user"}]},
            r"messages\[0\] must have from and value, or role and content",
        ),
        ("conversations", {"messages": [message("tool", "x")]}, r"messages\[0\].role must be one of .*got 'tool'"),
        ("conversations", {"messages": [message("user", [])]}, r"messages\[0\].content must be text, got list"),
        ("conversations", {"messages": []}, "a conversation must hold a user turn, got none"),
        ("conversations", {"messages": [message("user", "q")]}, "must end in an assistant turn, got user as its last"),
        ("conversations", {"messages": [message("assistant", "a")]}, "must hold a user turn, got assistant"),
        (
            "conversations",
            {"messages": [message("user", "q"), message("user", "q"), message("assistant", "a")]},
            "turns must alternate user, assistant; got user as turn 2",
        ),
        (
            "conversations",
            {"messages": [message("user", "q"), message("assistant", "a"), message("system", "s")]},
            "got system as turn 3",
        ),
        ("conversations", {"messages": [message("user", "q"), message("assistant", "")]}, "must hold a response"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(name: str, fields: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said):
        formats[name].parse(fields)


@pytest.mark.parametrize("name", list(formats))
def test_every_format_is_documented_and_refuses_an_empty_row(name: str):
    assert formats[name].parse.__doc__
    assert formats[name].describe()
    with pytest.raises(DataError, match="is required, got no field"):
        formats[name].parse({})
