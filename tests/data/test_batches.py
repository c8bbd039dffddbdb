"""Examples become token ids; what does not fit is counted, and nothing is trained on but responses."""

import functools
from pathlib import Path

import pytest

from neftune.data.batches import Tokenised, continuation_ids, tokenise
from neftune.data.datasets import read_examples
from neftune.data.prompts import encode_prompt, render, render_prompt
from neftune.errors import DataError, ModelError
from neftune.records import Document, Example, Turn
from tests.tiny_tokenizers import KINDS, byte_level, metaspace, sentencepiece, words

LONG = 100_000


def example(question: str, answer: str) -> Example:
    return Example.make([Turn("user", question), Turn("assistant", answer)])


TWO = Example.make([Turn("user", "q"), Turn("assistant", "one"), Turn("user", "q"), Turn("assistant", "the two")])


def tokenised(examples: list[Example], tokenizer=None, max_length: int = LONG, template: str = "plain") -> Tokenised:
    return tokenise(examples, tokenizer or sentencepiece(), template=template, max_length=max_length)


@pytest.mark.parametrize("build", [sentencepiece, metaspace, byte_level])
def test_one_turn_gives_the_tokens_of_the_whole_text_where_nothing_merges_across_the_border(build):
    tokenizer = build()
    one = example("the question", "answer in the end")
    rendered = render(one, template="alpaca", tokenizer=tokenizer)
    (document,) = tokenised([one], tokenizer, template="alpaca").documents
    assert list(document.input_ids) == tokenizer(rendered.prompt + rendered.response)["input_ids"]


def test_a_continuation_has_no_space_before_it():
    tokenizer = sentencepiece()
    alone = tokenizer("answer", add_special_tokens=False)["input_ids"]
    (ids,) = continuation_ids(["answer"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")
    assert tokenizer.convert_ids_to_tokens(ids)[0] == "an"


@pytest.mark.parametrize("kind", KINDS)
def test_continuations_that_merge_with_what_they_stand_behind_lose_nothing(kind: str):
    tokenizer = KINDS[kind]()
    texts = ["\n\nthe", ":)", ")", " ", "a", "é\u2028漢", ".", "the"]
    for text, ids in zip(texts, continuation_ids(texts, tokenizer), strict=True):
        if kind == "words":
            assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            assert tokenizer.decode(ids).strip(" ") == text.strip(" ")


def test_words_unknown_to_a_tokenizer_still_count_one_each():
    (document,) = tokenised([example("x", "completely unknown")], words(), template="alpaca").documents
    assert sum(document.loss_mask) == 3


def test_every_assistant_turn_is_trained_on_with_its_end():
    tokenizer = sentencepiece()
    (document,) = tokenised([TWO], tokenizer).documents
    trained = [token for token, on in zip(document.input_ids, document.loss_mask, strict=True) if on]
    assert tokenizer.decode(trained) == "one</s>the two</s>"
    assert trained.count(tokenizer.eos_token_id) == 2


def test_a_document_too_long_loses_its_end_and_is_counted():
    whole = tokenised([TWO]).documents[0]
    length = len(whole.input_ids)
    for max_length in (length, length - 1):
        (document,), counts = (result := tokenised([TWO], max_length=max_length)).documents, result.counts
        assert document.input_ids == whole.input_ids[:max_length]
        assert document.loss_mask == whole.loss_mask[:max_length]
        assert document.truncated == bool(counts["truncated"]) == (max_length < length)


def test_an_example_left_without_a_response_token_is_dropped_and_counted():
    short, long = example("q", "a"), example("q " * 40, "a")
    result = tokenised([long, short], max_length=20)
    assert [document.example_id for document in result.documents] == [short.id]
    assert result.counts == {"truncated": 0, "dropped_no_response": 1, "special_tokens_in_text": 0}
    prompt = encode_prompt(render_prompt(long, template="plain", tokenizer=sentencepiece()), sentencepiece())
    assert tokenised([long], max_length=len(prompt) + 1).counts["truncated"] == 1


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match=r"within data\.max_length=8 tokens, got none of 2"):
        tokenised([example("q " * 40, "a"), example("r " * 40, "a")], max_length=8)
    with pytest.raises(DataError, match="at least one example, got none"):
        tokenised([])


def test_text_that_spells_a_special_token_is_counted():
    result = tokenised([example("what is <s>?", "a tag"), example("q", "a")])
    assert result.counts["special_tokens_in_text"] == 1


def test_documents_keep_the_order_of_their_examples_over_chunks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neftune.data.batches._CHUNK", 2)
    examples = [example(f"q{n}", f"a{n}") for n in range(5)] + [TWO]
    chunked = tokenised(examples).documents
    assert [document.example_id for document in chunked] == [one.id for one in examples]
    monkeypatch.undo()
    assert tokenised(examples).documents == chunked


def test_several_turns_need_offsets():
    class Slow:
        """What a tokenizer without offsets looks like from here."""

        def __init__(self) -> None:
            self.inner = sentencepiece()
            self.is_fast = False

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def __call__(self, *args: object, **options: object) -> object:
            return self.inner(*args, **options)

    assert len(tokenised([example("q", "a")], Slow()).documents) == 1
    with pytest.raises(ModelError, match="needs a fast tokenizer, got Slow"):
        tokenised([TWO], Slow())


def test_a_tokenizer_without_pad_token_is_fine():
    tokenizer = sentencepiece()
    assert tokenizer.pad_token is None
    assert tokenised([TWO], tokenizer).documents


@functools.cache
def first_examples(path: Path) -> tuple[Example, ...]:
    return read_examples(path, skip_bad=True).examples[:40]


def trained_text(document: Document, tokenizer) -> str:
    return tokenizer.decode([t for t, on in zip(document.input_ids, document.loss_mask, strict=True) if on])


@pytest.mark.parametrize("model", ["stories260k", "babyllama-tok105-0.9m"])
@pytest.mark.parametrize(
    ("name", "template"),
    [("alpaca_52k", "alpaca"), ("evol_instruct_sample", "alpaca"), ("sharegpt_sample", "vicuna"), ("lima_1k", "plain")],
)
def test_real_data_with_a_real_tokenizer(shared: Path, model: str, name: str, template: str):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / model)
    examples = first_examples(shared / "data" / "train" / f"{name}.jsonl.gz")
    documents = tokenised(list(examples), tokenizer, template=template).documents
    assert len(documents) == len(examples)
    for one, document in zip(examples, documents, strict=True):
        prompt = encode_prompt(render_prompt(one, template=template, tokenizer=tokenizer), tokenizer)
        assert list(document.input_ids[: len(prompt)]) == prompt
        assert document.input_ids[0] == tokenizer.bos_token_id
        assert document.input_ids[-1] == tokenizer.eos_token_id
        responses = [turn.content for turn in one.turns if turn.role == "assistant"]
        pieces = trained_text(document, tokenizer).split("</s>")[:-1]
        assert len(pieces) == len(responses)
        if model == "stories260k":
            assert [piece.strip(" ") for piece in pieces] == [response.strip(" ") for response in responses]
