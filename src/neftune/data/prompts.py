"""Prompt templates: an example as text, and where in it the responses stand.

What a model is trained on and what it is asked are one text: `render_prompt` is the part of the training text up to the
reference response, and `encode_prompt` turns both into the same tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from neftune.data.chat import locate_responses
from neftune.errors import ModelError
from neftune.records import Example
from neftune.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Rendered:
    """An example as text.

    Attributes:
        prompt: Everything up to where the reference response starts.
        response: The reference response with the token that ends it.
        spans: Where in the prompt the responses of earlier turns stand, their end token included: start and end in
            characters, in order.
    """

    prompt: str
    response: str
    spans: tuple[tuple[int, int], ...] = ()


Template = Callable[[Example, "PreTrainedTokenizerBase"], Rendered]

templates: Registry[Template] = Registry("prompt template")
"""Templates by name, as `data.template` says them."""


def resolve_template(name: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The name of a registered template; "auto" is the tokenizer's own where it has one, else alpaca.

    Raises:
        UnknownNameError: No template has this name.
        ModelError: The tokenizer's own template is asked for and it has none.
    """
    if name == "auto":
        return "chat" if tokenizer.chat_template else "alpaca"
    templates[name]
    if name == "chat" and not tokenizer.chat_template:
        raise ModelError(
            "data.template=chat needs a tokenizer with a chat template, got one without. "
            "Set data.template to alpaca, vicuna or plain."
        )
    return name


def render(example: Example, *, template: str, tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    """The example as text; "auto" is resolved.

    Raises:
        ModelError: The tokenizer has no end-of-sequence token, or its chat template cannot be used.
    """
    end_token(tokenizer)
    return templates[resolve_template(template, tokenizer)](example, tokenizer)


def render_prompt(example: Example, *, template: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text up to where the reference response starts: what a model is asked."""
    return render(example, template=template, tokenizer=tokenizer).prompt


def encode_prompt(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of a rendered prompt, as in training: BOS once, if the tokenizer puts one; no EOS."""
    ids = encode_all([text], tokenizer)[0]
    return ids if brings_bos(text, tokenizer) else [*bos_ids(tokenizer), *ids]


def encode_all(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of each text; special tokens spelled out in it are taken as such, none are added."""
    encoded: Any = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return encoded["input_ids"]


def bos_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The BOS that the tokenizer puts before a text, as a list: empty if it puts none."""
    bos: Any = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def brings_bos(text: str, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a text begins with BOS spelled out, as many chat templates write it."""
    return tokenizer.bos_token is not None and text.startswith(str(tokenizer.bos_token))


def end_token(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text of the end-of-sequence token.

    Raises:
        ModelError: The tokenizer has none, so a model could never learn to stop.
    """
    if tokenizer.eos_token is None:
        raise ModelError(
            "a tokenizer must have an end-of-sequence token (every response ends in it), got one without. "
            "Set eos_token in its tokenizer_config.json."
        )
    return str(tokenizer.eos_token)


class _Exchange(NamedTuple):
    """A user turn, the input that goes with it, and the response."""

    user: str
    input: str
    response: str


def _system(example: Example) -> str:
    return example.turns[0].content if example.turns[0].role == "system" else ""


def _exchanges(example: Example) -> Iterator[_Exchange]:
    """The turns two by two; the input goes with the last question."""
    turns = [turn for turn in example.turns if turn.role != "system"]
    pairs = list(zip(turns[::2], turns[1::2], strict=True))
    for index, (user, assistant) in enumerate(pairs):
        yield _Exchange(user.content, example.input if index == len(pairs) - 1 else "", assistant.content)


def _joined(pieces: list[tuple[str, str]]) -> Rendered:
    """Text from (question, response) pieces, the last of which is the reference."""
    text, spans = "", list[tuple[int, int]]()
    for question, response in pieces[:-1]:
        start = len(text) + len(question)
        text += question + response
        spans.append((start, len(text)))
    return Rendered(text + pieces[-1][0], pieces[-1][1], tuple(spans))


_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
_ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


@templates.register("alpaca")
def alpaca(example: Example, tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    """Stanford Alpaca's prompt; the response follows "### Response:" at once, as in the paper's training.

    Later turns repeat the headings without the sentence above; a system turn takes that sentence's place.

    Source: github.com/tatsu-lab/stanford_alpaca train.py; github.com/neelsjain/NEFTune experiment_code/train.py.
    """
    pieces: list[tuple[str, str]] = []
    preamble = _system(example) or (_ALPACA_WITH_INPUT if example.input else _ALPACA_WITHOUT_INPUT)
    for user, given, response in _exchanges(example):
        middle = f"\n\n### Input:\n{given}" if given else ""
        question = f"{preamble}\n\n### Instruction:\n{user}{middle}\n\n### Response:"
        pieces.append((question, response + end_token(tokenizer)))
        preamble = ""
    return _joined(pieces)


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@templates.register("vicuna")
def vicuna(example: Example, tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    """Vicuna v1.1: a sentence, then USER: and ASSISTANT: on one line, every response ended by EOS.

    Source: github.com/lm-sys/FastChat, fastchat/conversation.py, "vicuna_v1.1".
    """
    pieces: list[tuple[str, str]] = []
    before = (_system(example) or _VICUNA_SYSTEM) + " "
    for user, given, response in _exchanges(example):
        question = f"{before}USER: {_with_input(user, given)} ASSISTANT:"
        pieces.append((question, f" {response}{end_token(tokenizer)}"))
        before = ""
    return _joined(pieces)


@templates.register("plain")
def plain(example: Example, tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    """Prompt, line break, response, and nothing else."""
    pieces: list[tuple[str, str]] = []
    before = f"{_system(example)}\n" if _system(example) else ""
    for user, given, response in _exchanges(example):
        question = f"{before}{user}\n{given}\n" if given else f"{before}{user}\n"
        pieces.append((question, response + end_token(tokenizer)))
        before = "\n"
    return _joined(pieces)


@templates.register("chat")
def chat(example: Example, tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    """The tokenizer's own chat template."""
    messages = [{"role": turn.role, "content": turn.content} for turn in example.turns]
    if example.input:
        messages[-2]["content"] = _with_input(messages[-2]["content"], example.input)
    located = locate_responses(messages, tokenizer)
    start, end = located.spans[-1]
    return Rendered(located.text[:start], located.text[start:end], located.spans[:-1])


def _with_input(user: str, given: str) -> str:
    return f"{user}\n\n{given}" if given else user
