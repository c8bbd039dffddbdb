"""What every prompt template owes to training and generation, with every kind of tokenizer."""

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neftune.data.batches import tokenise
from neftune.data.prompts import encode_prompt, render_prompt, resolve_template, templates
from neftune.records import Document, Example, Turn
from tests.tiny_tokenizers import CHATML, EXACT, KINDS, LLAMA2, MARKED, NO_END, NO_GENERATION_PROMPT, ZEPHYR

TOKENIZERS = {name: build() for name, build in KINDS.items()}
CHATS = {
    "chatml": CHATML,
    "marked": MARKED,
    "llama2": LLAMA2,
    "zephyr": ZEPHYR,
    "no end": NO_END,
    "no generation prompt": NO_GENERATION_PROMPT,
}
LONG = 100_000

texts = st.text(st.characters(codec="utf-8", exclude_characters="<|\0"), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)


@st.composite
def examples(draw: st.DrawFn, text: st.SearchStrategy[str] = texts, system: bool = True) -> Example:
    turns = [Turn("system", draw(text))] if system and draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        turns += [Turn("user", draw(text)), Turn("assistant", draw(text))]
    return Example.make(turns, input=draw(st.one_of(st.just(""), text)))


def with_chat(name: str, chat: str):
    tokenizer = TOKENIZERS[name]
    tokenizer.chat_template = CHATS[chat]
    if tokenizer.bos_token is None and chat == "llama2":
        pytest.skip("this template writes a BOS, which this tokenizer lacks")
    return tokenizer


def document_of(example: Example, tokenizer, template: str) -> Document:
    tokenised = tokenise([example], tokenizer, template=template, max_length=LONG)
    return tokenised.documents[0]


def trained_runs(document: Document) -> list[list[int]]:
    pairs = groupby(zip(document.input_ids, document.loss_mask, strict=True), key=lambda pair: pair[1])
    return [[token for token, _ in run] for trained, run in pairs if trained]


@pytest.mark.parametrize("template", [name for name in templates if name != "chat"])
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(example=examples())
def test_the_prompt_asked_is_the_beginning_of_the_document_trained_on(template: str, kind: str, example: Example):
    tokenizer = TOKENIZERS[kind]
    asked = encode_prompt(render_prompt(example, template=template, tokenizer=tokenizer), tokenizer)
    document = document_of(example, tokenizer, template)
    assert list(document.input_ids[: len(asked)]) == asked
    assert all(document.loss_mask[len(asked) :])
    assert not document.loss_mask[len(asked) - 1]


@pytest.mark.parametrize("template", [name for name in templates if name != "chat"])
@pytest.mark.parametrize("kind", EXACT)
@settings(deadline=None, max_examples=60)
@given(example=examples())
def test_the_loss_covers_the_responses_and_their_ends_and_nothing_else(template: str, kind: str, example: Example):
    tokenizer = TOKENIZERS[kind]
    runs = trained_runs(document_of(example, tokenizer, template))
    responses = [turn.content for turn in example.turns if turn.role == "assistant"]
    assert len(runs) == len(responses)
    for number, (run, response) in enumerate(zip(runs, responses, strict=True), start=1):
        assert run[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in run[:-1]
        text, response = tokenizer.decode(run[:-1]).lstrip(" "), response.lstrip(" ")
        if number == len(responses):
            assert text == response
        else:
            # A token that reaches over the border from the prompt into an earlier response is not trained on.
            assert response.endswith(text)
            assert len(response) - len(text) <= 2


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("kind", EXACT)
@settings(deadline=None, max_examples=30)
@given(example=examples(st.text("abc the\n", min_size=1, max_size=20).map(lambda text: f"x{text}x"), system=False))
def test_a_chat_template_keeps_the_same_promises(kind: str, chat: str, example: Example):
    tokenizer = with_chat(kind, chat)
    end = "<|im_end|>" if chat in {"chatml", "marked"} and kind == "byte_level" else tokenizer.eos_token
    asked = encode_prompt(render_prompt(example, template="chat", tokenizer=tokenizer), tokenizer)
    document = document_of(example, tokenizer, "chat")
    assert list(document.input_ids[: len(asked)]) == asked
    runs = trained_runs(document)
    responses = [turn.content for turn in example.turns if turn.role == "assistant"]
    assert len(runs) == len(responses)
    for run, response in zip(runs, responses, strict=True):
        text = tokenizer.decode(run)
        assert text.endswith(end)
        assert text.replace(tokenizer.eos_token, "").replace("<|im_end|>", "").strip() == response


@pytest.mark.parametrize("name", list(templates))
def test_every_template_says_where_it_comes_from_or_what_it_is(name: str):
    assert (templates[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", [name for name in templates if name != "chat"])
def test_every_name_resolves_to_itself_without_a_chat_template(name: str):
    tokenizer = KINDS["sentencepiece"]()
    assert resolve_template(name, tokenizer) == name
