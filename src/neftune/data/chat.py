"""Where the responses stand in a conversation that a tokenizer's chat template wrote.

Templates with {% generation %} marks say it themselves. For all others the conversation is rendered turn by turn: each
beginning of it must be a beginning of the whole, and what a turn adds after the generation prompt is the response.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from neftune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Span = tuple[int, int]

_SAMPLE = "\ue000content\ue000"
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Located(NamedTuple):
    """A conversation as text, and the start and end in characters of every response with its end token."""

    text: str
    spans: tuple[Span, ...]


def locate_responses(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> Located:
    """The conversation as the chat template writes it, and where its responses stand.

    A response ends with the special token that the template writes after it; where there is none, EOS is put there.

    Raises:
        ModelError: The template refuses the conversation, or changes what it has written when a turn follows.
    """
    from jinja2 import TemplateError

    try:
        if _GENERATION_MARK.search(str(tokenizer.chat_template)):
            text, spans = _marked(messages, tokenizer)
        else:
            text, spans = _by_turns(messages, tokenizer)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages[:4])
        raise ModelError(
            f"the tokenizer's chat template must take the data's turns ({roles}, ...), it says: {error}. "
            "Set data.template to alpaca, vicuna or plain, or change the tokenizer's chat template."
        ) from error
    return _ended(text, spans, tokenizer)


def _marked(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> Located:
    from transformers.utils.chat_template_utils import render_jinja_template

    options: dict[str, Any] = dict(tokenizer.special_tokens_map)
    rendered: Any = render_jinja_template(
        conversations=[list(messages)],
        chat_template=str(tokenizer.chat_template),
        return_assistant_tokens_mask=True,
        **options,
    )
    texts, spans = rendered
    num_responses = sum(message["role"] == "assistant" for message in messages)
    if len(spans[0]) != num_responses:
        raise ModelError(
            f"the tokenizer's chat template must mark each assistant turn with {{% generation %}}, got "
            f"{len(spans[0])} marks for {num_responses} turns. Mend the template."
        )
    return Located(texts[0], tuple((start, _with_follower(texts[0], end, tokenizer)) for start, end in spans[0]))


def _with_follower(text: str, end: int, tokenizer: "PreTrainedTokenizerBase") -> int:
    """The end of a mark, moved behind the special token that stands right after it."""
    return end + next((len(token) for token in _special_tokens(tokenizer) if text.startswith(token, end)), 0)


def _by_turns(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> Located:
    text = _write(messages, tokenizer)
    spans: list[Span] = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = _write(messages[:index], tokenizer, add_generation_prompt=True)
            turn = _write(messages[: index + 1], tokenizer)
            _require_prefix(prompt, text)
            _require_prefix(turn, text)
            start = len(prompt)
            if prompt == _write(messages[:index], tokenizer):
                sample = _write([*messages[:index], {**message, "content": _SAMPLE}], tokenizer)
                start += _header_length(turn[start:], sample[start:])
            spans.append((start, len(turn)))
    return Located(text, tuple(spans))


def _header_length(turn: str, sample: str) -> int:
    """Characters before the content unless they are but space: the role, where no generation prompt wrote it.

    Args:
        turn: What the template writes for the turn.
        sample: The same with `_SAMPLE` for content; unlike an answer, it never occurs in the role or the end token.
    """
    before, found, _ = sample.partition(_SAMPLE)
    return len(before) if found and before.strip() and turn.startswith(before) else 0


def _write(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase", **options: Any) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))


def _require_prefix(beginning: str, text: str) -> None:
    if text.startswith(beginning):
        return
    at = next((i for i, (a, b) in enumerate(zip(beginning, text, strict=False)) if a != b), len(text))
    raise ModelError(
        "the tokenizer's chat template must write the beginning of a conversation the same way whether or not more "
        f"follows; after {text[max(0, at - 20) : at]!r} it writes {beginning[at : at + 30]!r} and then "
        f"{text[at : at + 30]!r}. Mark the responses in the template with {{% generation %}}, or set data.template to "
        "alpaca, vicuna or plain."
    )


def _ended(text: str, spans: Sequence[Span], tokenizer: "PreTrainedTokenizerBase") -> Located:
    """The spans cut behind the special token that ends each response, EOS put in where there is none."""
    specials = tuple(_special_tokens(tokenizer))
    parts: list[str] = []
    moved: list[Span] = []
    length = done = 0
    for start, end in spans:
        response = text[start:end].rstrip()
        ending = "" if response.endswith(specials) else str(tokenizer.eos_token)
        parts += [text[done:start], response + ending]
        length += start - done
        moved.append((length, length + len(parts[-1])))
        length, done = moved[-1][1], start + len(response)
    return Located("".join([*parts, text[done:]]), tuple(moved))


def _special_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Texts of tokens that can end a turn, longest first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    eos = str(tokenizer.eos_token)
    never = {str(tokenizer.bos_token), str(tokenizer.unk_token)} - {eos}
    return sorted({*added, eos} - never, key=len, reverse=True)
