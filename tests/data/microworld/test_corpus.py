"""The pretraining text: true, in both registers, packed without splitting."""

import itertools
import random

import pytest

from neftune.data.microworld import make_tokenizer, make_world
from neftune.data.microworld.corpus import documents, pack
from neftune.data.microworld.grammar import read
from neftune.data.microworld.lexicon import LABELS

NUM = 3000


@pytest.fixture(scope="module")
def texts() -> list[str]:
    world = make_world(0)
    return list(itertools.islice(documents(world, people=world.people, rng=random.Random(0)), NUM))


def told(text: str) -> str:
    """What is told: all of a telling document, the answer in an asking one."""
    return text.split("\n")[-1].split(": ", 1)[-1]


def test_every_document_tells_the_truth_about_one_person(texts: list[str]):
    world = make_world(0)
    for text in texts:
        readings = read(told(text))
        facts = [reading.statement for reading in readings if reading.statement]
        assert all(reading.kind != "garbled" for reading in readings)
        assert facts
        assert len({fact.person for fact in facts}) == 1
        assert all(world.is_true(fact) for fact in facts)


def test_half_of_the_words_are_in_the_long_register(texts: list[str]):
    is_long = [len(read(told(text))) >= 5 for text in texts]
    words = [len(text.split()) for text in texts]
    share = sum(num for num, long in zip(words, is_long, strict=True) if long) / sum(words)
    assert 0.45 < share < 0.55


def test_two_documents_in_three_ask_under_every_pair_of_labels(texts: list[str]):
    asking = [text for text in texts if "\n" in text]
    assert 0.6 < len(asking) / NUM < 0.7
    for asker, answerer in LABELS:
        share = sum(text.startswith(asker) and f"\n{answerer} " in text for text in asking) / len(asking)
        assert 0.16 < share < 0.24


def test_the_tokenizer_knows_every_word_and_gives_it_back(texts: list[str]):
    tokenizer = make_tokenizer()
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).replace("\n ", "\n") == text


def test_only_the_people_asked_for(texts: list[str]):
    few = ("Ada", "Bella")
    some = itertools.islice(documents(make_world(0), people=few, rng=random.Random(0)), 200)
    people = {reading.statement.person for text in some for reading in read(told(text)) if reading.statement}
    assert people == set(few)


def test_the_longest_document_fits_a_row():
    world, tokenizer = make_world(0), make_tokenizer()
    texts = list(itertools.islice(documents(world, people=world.people, rng=random.Random(1)), 10000))
    longest = max(texts, key=lambda text: len(text.split()))
    assert 80 < len(tokenizer(longest)["input_ids"]) + 1 <= 96


def test_packing_keeps_documents_whole_and_in_one_piece():
    rng = random.Random(0)
    sizes = [rng.randint(1, 40) for _ in range(500)]
    given = [[number] * size for number, size in enumerate(sizes)]
    rows = pack(iter(given), num_rows=80, row_length=64)
    assert len(rows) == 80
    assert max(map(len, rows)) <= 64
    assert sum(map(len, rows)) > 0.97 * 80 * 64
    runs = [(number, len(list(run))) for row in rows for number, run in itertools.groupby(row)]
    assert len(runs) == len({number for number, _ in runs}), "no document twice"
    assert all(size == sizes[number] for number, size in runs)


def test_a_document_longer_than_a_row_is_a_bug_of_ours():
    with pytest.raises(AssertionError, match="longer than a row of 8"):
        pack(itertools.repeat([0] * 9), num_rows=1, row_length=8)
