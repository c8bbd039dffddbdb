"""Our greedy loop against transformers' own, family by family."""

from contextlib import contextmanager

import pytest
import torch
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM

from neftune.evaluation import decoding
from neftune.evaluation.decoding import Greedy, RoomyLayer, decode
from neftune.evaluation.generation import GenerationSettings, cache_bytes_per_token, generate, generate_each
from tests.evaluation.test_generation import decisive_llama, prompts
from tests.tiny_families import SMALL, VOCAB, make, without_dropout
from tests.tiny_training import tiny_tokenizer

NUM_NEW = 12
LENGTHS = (9, 4, 7, 9, 3)
FAMILIES = (
    "llama",
    "mistral",
    "qwen3-next",
    "gemma2",
    "gemma3n",
    "gpt2",
    "opt",
    "bloom",
    "falcon-h1",
    "mamba",
    "gpt-oss",
    "deepseek-v3",
    "mixtral",
)
"""One of each kind of cache, of positions and of mask."""


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, VOCAB - 5, (length,), generator=generator) for length in LENGTHS]
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0, padding_side="left"),
        "attention_mask": torch.nn.utils.rnn.pad_sequence(
            [torch.ones_like(row) for row in rows], batch_first=True, padding_value=0, padding_side="left"
        ),
    }


def settings(ends: list[int]) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0, eos_token_id=ends, use_cache=True)


def cut(ids: list[int], ends: list[int]) -> list[int]:
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in ends), ids)


def ours(model, inputs, ends: list[int], **changes) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    fields = {"penalty": 1.0, "min_new_tokens": 0, "context": None, "limits": [NUM_NEW] * len(LENGTHS)} | changes
    greedy = Greedy(ends=ends, finish=found.__setitem__, **fields)

    def loop(model, input_ids, **given):
        return decode(model, input_ids, greedy=greedy, **given)

    model.generate(**inputs, generation_config=settings(ends), custom_generate=loop)
    assert sorted(found) == list(range(len(LENGTHS)))
    return [cut(found[row], ends) for row in range(len(LENGTHS))]


def decisive(model):
    """A model whose best token changes from step to step."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4
    model.generation_config = GenerationConfig()
    return without_dropout(model).eval()


def theirs_and_ends(model) -> tuple[list[list[int]], list[int]]:
    """What transformers' loop says, and ends that its rows meet at different times."""
    free = model.generate(**batch(), generation_config=settings([VOCAB - 1]))[:, max(LENGTHS) :].tolist()
    ends = sorted({free[0][2], free[1][5], free[2][8]})
    theirs = model.generate(**batch(), generation_config=settings(ends))[:, max(LENGTHS) :].tolist()
    return [cut(row, ends) for row in theirs], ends


@contextmanager
def rows_fed(model):
    """Rows of every forward."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, given: seen.append(len(given["input_ids"])), with_kwargs=True
    )
    yield seen
    handle.remove()


@pytest.mark.parametrize("steps_per_look", [1, 5], ids=["each step", "every fifth"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_what_transformers_loop_says(family: str, steps_per_look: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "_steps_per_look", lambda device: steps_per_look)
    model = decisive(make(family))
    theirs, ends = theirs_and_ends(model)
    assert len({len(row) for row in theirs}) > 1
    assert ours(model, batch(), ends) == theirs


def test_a_window_that_slides_past_the_prompt_says_the_same():
    config = MistralConfig(**SMALL, sliding_window=5, layer_types=["sliding_attention"])
    torch.manual_seed(0)
    model = decisive(MistralForCausalLM(config))
    theirs, ends = theirs_and_ends(model)
    with rows_fed(model) as seen:
        assert ours(model, batch(), ends) == theirs
    assert min(seen) < len(LENGTHS)


def test_rows_leave_when_they_are_done_and_stay_where_a_state_cannot_be_taken_apart():
    for family, leave in (("llama", True), ("mamba", False)):
        model = decisive(make(family))
        _, ends = theirs_and_ends(model)
        with rows_fed(model) as seen:
            found = ours(model, batch(), ends)
        expected = [sum(len(row) > step for row in found) if leave else len(LENGTHS) for step in range(len(seen))]
        assert seen == expected
        assert len(seen) == max(len(row) for row in found)


def test_each_row_has_a_limit_of_its_own():
    model = decisive(make("llama"))
    free = model.generate(**batch(), generation_config=settings([VOCAB - 1]))[:, max(LENGTHS) :].tolist()
    limits = [3, 12, 1, 7, 12]
    found = ours(model, batch(), [VOCAB - 1], limits=limits)
    assert [row[:limit] for row, limit in zip(found, limits, strict=True)] == [
        row[:limit] for row, limit in zip(free, limits, strict=True)
    ]


def test_a_token_copies_no_cache():
    layer = RoomyLayer()
    held = torch.randn(2, 1, 10, 4)
    places = set()
    for step in range(40):
        new = torch.randn(2, 1, 10 if step == 0 else 1, 4)
        held = new if step == 0 else torch.cat([held, new], dim=-2)
        keys, values = layer.update(new, -new)
        assert torch.equal(keys, held)
        assert torch.equal(values, -held)
        places.add(keys.data_ptr())
    assert len(places) == 1
    layer.batch_select_indices(torch.tensor([1]))
    keys, _ = layer.update(new[1:], new[1:])
    assert torch.equal(keys, torch.cat([held[1:], new[1:]], dim=-2))


def test_a_small_cache_makes_small_batches_and_the_same_answers():
    model, tokenizer = decisive_llama(), tiny_tokenizer()
    wanted = generate(model, tokenizer, prompts(), max_new_tokens=5)
    for cache_tokens, most in ((10**6, 8), (40, 3), (1, 1)):
        found = {}
        how = GenerationSettings(5, cache_bytes=cache_tokens * cache_bytes_per_token(model))
        with rows_fed(model) as seen:
            generate_each(model, tokenizer, prompts(), how, on_answer=found.__setitem__)
        assert [found[place] for place in range(len(prompts()))] == wanted
        assert max(seen) == most


def test_a_cache_s_bytes_are_those_of_its_tensors():
    for family in ("llama", "gpt2", "gemma"):
        model = make(family).eval()
        cache = model(**batch(), use_cache=True).past_key_values
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        assert cache_bytes_per_token(model) == held / batch()["input_ids"].numel()


def test_answers_come_as_they_are_done():
    model, tokenizer = decisive_llama(), tiny_tokenizer()
    came: list[int] = []
    generate_each(
        model, tokenizer, prompts(), GenerationSettings(5, batch_size=3), on_answer=lambda place, _: came.append(place)
    )
    lengths = [len(prompts()[place].split()) for place in came]
    assert sorted(came) == list(range(len(prompts())))
    assert max(lengths[:3]) <= min(lengths[3:6])
    assert max(lengths[3:6]) <= min(lengths[6:])
