"""How rows are read as examples: one function a format, found by name or by the row's fields.

A format states which fields a row must have and turns the row into `Parsed`; a row that it cannot read is a `DataError`
that says what is wrong, to which the caller adds where.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neftune.errors import DataError
from neftune.records import Role, Turn
from neftune.registry import Registry

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a row says.

    Attributes:
        turns: System turn if any, then user and assistant in turn, the assistant last.
        input: Alpaca's second field; "" where there is none.
        num_leading_dropped: Assistant turns left out because they stood before the first user turn.
    """

    turns: tuple[Turn, ...]
    input: str = ""
    num_leading_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Format:
    """A way to read rows.

    Attributes:
        required: Per needed field, its possible names; a row is in the format if it has one of each.
        parse: A row's fields -> what they say; raises `DataError`.
    """

    required: tuple[tuple[str, ...], ...]
    parse: Callable[[Fields], Parsed]

    def matches(self, fields: Fields) -> bool:
        """Whether a row with these fields is in this format."""
        return all(any(name in fields for name in names) for names in self.required)

    def describe(self) -> str:
        """The fields a row must have, in words."""
        return " + ".join("|".join(names) for names in self.required)


formats: Registry[Format] = Registry("data format")
"""Formats by name, as `data.format` says them."""


def detect_format(fields: Fields) -> str:
    """Name of the one format whose fields a row has.

    Raises:
        DataError: No format fits, or more than one does.
    """
    names = [name for name, entry in formats.items() if entry.matches(fields)]
    if len(names) == 1:
        return names[0]
    known = "; ".join(f"{name} ({entry.describe()})" for name, entry in formats.items())
    fits = "fit no known format" if not names else f"fit {' and '.join(names)}"
    raise DataError(
        f"the fields must fit exactly one format, got {', '.join(map(str, fields)) or 'none'}, which {fits}. "
        f"Known formats: {known}. Rename the fields or set data.format"
    )


def _register(name: str, *required: tuple[str, ...]) -> Callable[[Callable[[Fields], Parsed]], Format]:
    def add(parse: Callable[[Fields], Parsed]) -> Format:
        return formats.register(name)(Format(required, parse))

    return add


@_register("alpaca", ("instruction",), ("output", "response"))
def alpaca(fields: Fields) -> Parsed:
    """Stanford Alpaca's instruction, input, output; Dolly's context, response; a history of [user, assistant] pairs.

    Source: github.com/tatsu-lab/stanford_alpaca, alpaca_data.json.
    """
    turns: list[Turn] = []
    history = fields.get("history") or []
    if not _is_list(history):
        raise DataError(f"history must be a list of [user, assistant] pairs, got {type(history).__name__}")
    for pair in history:
        if not _is_list(pair) or len(pair) != 2:
            raise DataError(f"history must be a list of [user, assistant] pairs, got an entry {pair!r:.80}")
        turns += [_turn("user", pair[0], "history"), _turn("assistant", pair[1], "history")]
    turns += [_field_turn("user", fields, "instruction"), _field_turn("assistant", fields, "output", "response")]
    return Parsed(tuple(turns), _optional_text(fields, "input" if "input" in fields else "context"))


@_register("conversations", ("conversations", "messages"))
def conversations(fields: Fields) -> Parsed:
    """A list of messages: ShareGPT's from/value, role/content, or bare strings that begin with the user's (LIMA).

    Assistant turns before the first user turn are left out, as FastChat does: ShareGPT's long conversations were cut
    into pieces, and a third of the pieces begin with an answer.

    Source: github.com/lm-sys/FastChat, fastchat/train/train.py.
    """
    name = _present(fields, "conversations", "messages")
    return _conversation(_messages(fields[name], name))


@_register("prompt_completion", ("prompt",), ("completion",))
def prompt_completion(fields: Fields) -> Parsed:
    """A prompt and a completion, each a text or a list of messages.

    Source: TRL's "prompt-completion" type of data set.
    """
    question = _text_or_messages("user", fields, "prompt")
    return _conversation([*question, *_text_or_messages("assistant", fields, "completion")])


def _text_or_messages(role: Role, fields: Fields, name: str) -> list[Turn]:
    if isinstance(fields.get(name), list | tuple):
        return _messages(fields[name], name)
    return [_field_turn(role, fields, name)]


_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}


def _messages(value: object, name: str) -> list[Turn]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{name} must be a list of messages, got {type(value).__name__}")
    return [_message(message, index, name) for index, message in enumerate(value)]


def _message(message: object, index: int, name: str) -> Turn:
    label = f"{name}[{index}]"
    if isinstance(message, str):
        return _turn("user" if index % 2 == 0 else "assistant", message, label)
    if not isinstance(message, Mapping):
        raise DataError(f"{label} must be a message, got {type(message).__name__}")
    for role_name, text_name in (("from", "value"), ("role", "content")):
        if role_name in message and text_name in message:
            role = message[role_name]
            if not isinstance(role, str) or role not in _ROLES:
                raise DataError(f"{label}.{role_name} must be one of {', '.join(_ROLES)}, got {role!r:.80}")
            return _turn(_ROLES[role], message[text_name], f"{label}.{text_name}")
    raise DataError(
        f"{label} must have from and value, or role and content; got {', '.join(map(str, message)) or 'none'}"
    )


def _conversation(turns: Sequence[Turn]) -> Parsed:
    """The turns in order: at most one system turn, first; then user and assistant in turn; assistant last."""
    system = tuple(turns[:1]) if turns and turns[0].role == "system" else ()
    rest = list(turns[len(system) :])
    system = tuple(turn for turn in system if turn.content.strip())
    first = next((index for index, turn in enumerate(rest) if turn.role != "assistant"), len(rest))
    rest = rest[first:]
    expected: tuple[Role, Role] = ("user", "assistant")
    for index, turn in enumerate(rest):
        if turn.role != expected[index % 2]:
            raise DataError(
                f"turns must alternate user, assistant; got {turn.role} as turn {len(system) + first + index + 1}"
            )
    if not rest:
        raise DataError(f"a conversation must hold a user turn, got {', '.join(turn.role for turn in turns) or 'none'}")
    if rest[-1].role != "assistant":
        raise DataError(f"a conversation must end in an assistant turn, got {rest[-1].role} as its last")
    return Parsed((*system, *rest), num_leading_dropped=first)


def _field_turn(role: Role, fields: Fields, *names: str) -> Turn:
    name = _present(fields, *names)
    return _turn(role, fields[name], name)


def _present(fields: Fields, *names: str) -> str:
    """The first of these names that the row has."""
    for name in names:
        if name in fields:
            return name
    raise DataError(f"field {' or '.join(names)} is required, got {', '.join(map(str, fields)) or 'no field'}")


def _turn(role: Role, text: object, label: str) -> Turn:
    content = _text(text, label)
    if role != "system" and not content.strip():
        what = "prompt" if role == "user" else "response"
        raise DataError(f"{label} must hold a {what}, got an empty one")
    return Turn(role, content)


def _optional_text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    return "" if value is None else _text(value, name)


def _text(value: object, label: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{label} must be text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{label} must be valid UTF-8, got a broken character at position {error.start + 1}") from None
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
