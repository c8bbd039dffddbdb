"""One token a word, nothing unknown, and back to the same text."""

from pathlib import Path

import pytest

from neftune.config import DataConfig
from neftune.data.batches import tokenise
from neftune.data.microworld import load_data, make_tokenizer
from neftune.data.microworld.lexicon import ATTRIBUTES, PEOPLE
from neftune.data.microworld.tokenizer import SPECIAL, vocabulary
from neftune.data.prompts import render_prompt, resolve_template

TOKENIZER = make_tokenizer()


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_special_tokens_are_four_different_ones():
    special = [TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id]
    assert special == [0, 1, 2, 3]
    assert len(vocabulary()) == len(set(vocabulary())) == len(TOKENIZER) < 340
    assert tuple(TOKENIZER.convert_ids_to_tokens(range(4))) == SPECIAL


def test_every_name_and_value_is_one_token():
    words = [*PEOPLE, *(value for attribute in ATTRIBUTES.values() for value in attribute.values)]
    assert [len(ids(word)) for word in words] == [1] * len(words)
    assert len({ids(word)[0] for word in words}) == len(words)


def test_bos_comes_first_and_eos_is_left_to_the_caller():
    assert TOKENIZER("Ada lives in Oslo.")["input_ids"][0] == TOKENIZER.bos_token_id
    assert TOKENIZER("Ada lives in Oslo.")["input_ids"][-1] == ids(".")[0]


def test_an_unknown_word_is_unknown():
    assert ids("zebra") == [TOKENIZER.unk_token_id]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path):
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "User: What is Ada's job?\nAssistant: Ada's job is baker."
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == TOKENIZER.decode(TOKENIZER(text)["input_ids"])
    assert loaded.chat_template == TOKENIZER.chat_template
    assert loaded.special_tokens_map == TOKENIZER.special_tokens_map


def test_the_chat_template_is_a_pair_of_labels_that_the_base_has_read():
    example = load_data(DataConfig()).parts["train"][0]
    assert resolve_template("auto", TOKENIZER) == "chat"
    prompt = render_prompt(example, template="chat", tokenizer=TOKENIZER)
    assert prompt == f"User: {example.turns[0].content}\nAssistant:"


def test_the_chat_template_refuses_roles_it_has_no_label_for():
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="no system role"):
        TOKENIZER.apply_chat_template([{"role": "system", "content": "Ada"}], tokenize=False)


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_the_whole_data_set_is_known_word_by_word_and_comes_back_as_it_was(template: str):
    data = load_data(DataConfig())
    for examples in data.parts.values():
        tokenised = tokenise(examples, TOKENIZER, template=template, max_length=96)
        assert tokenised.counts["truncated"] == tokenised.counts["dropped_no_response"] == 0
        for example, document in zip(examples, tokenised.documents, strict=True):
            assert TOKENIZER.unk_token_id not in document.input_ids
            assert document.input_ids[0] == TOKENIZER.bos_token_id
            assert document.input_ids.count(TOKENIZER.bos_token_id) == 1
            assert document.input_ids[-1] == TOKENIZER.eos_token_id
            response = [i for i, trained in zip(document.input_ids, document.loss_mask, strict=True) if trained]
            assert TOKENIZER.decode(response, skip_special_tokens=True) == example.reference
