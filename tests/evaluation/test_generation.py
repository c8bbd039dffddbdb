"""Batched greedy generation against the plainest decoder there is."""

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from neftune.config import RunConfig
from neftune.data.batches import tokenise
from neftune.errors import DataError, ModelError
from neftune.evaluation.evaluate import evaluate_model
from neftune.evaluation.generation import Generated, generate, prompt_room, response_ends
from neftune.noise.attach import attach
from neftune.records import DataSet, Document, Example, Turn
from neftune.training.finetune import finetune
from tests.reference.metric_greedy import slow_greedy
from tests.tiny_tokenizers import CHATML, MARKED, NO_END, byte_level
from tests.tiny_training import tiny_gpt2, tiny_llama, tiny_settings, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LENGTHS = (3, 9, 1, 55, 2, 60, 30, 58)


def prompts() -> list[str]:
    return [" ".join(f"w{3 + (5 * start + 3 * step) % 37}" for step in range(num)) for start, num in enumerate(LENGTHS)]


def decisive_llama(**overrides):
    return tiny_llama(initializer_range=0.6, **overrides).eval()


def decisive_gpt2():
    model = tiny_gpt2(dropout=0.0).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 20
    return model


def slow(model, tokenizer, prompt: str, *, penalty: float, max_new_tokens: int, ends=(2,), held_back=0) -> Generated:
    ids = tokenizer(prompt)["input_ids"]
    room = model.config.max_position_embeddings - len(ids)
    longest = min(room, max_new_tokens)
    new, ended = slow_greedy(model, ids, max_new_tokens=longest, ends=ends, penalty=penalty, held_back=held_back)
    return Generated(tokenizer.decode(new, skip_special_tokens=True).strip(), len(new), ended)


@pytest.mark.parametrize("make", [decisive_llama, decisive_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("pad", [{}, {"bos_token": "<s>", "eos_token": "</s>"}], ids=["own pad", "no pad"])
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_answers_are_the_slow_ones_for_every_batch_size(make, pad, penalty):
    model, tokenizer = make(), tiny_tokenizer(**pad)
    wanted = [slow(model, tokenizer, one, penalty=penalty, max_new_tokens=14) for one in prompts()]
    for batch_size in (1, 3, 64):
        got = generate(
            model, tokenizer, prompts(), max_new_tokens=14, repetition_penalty=penalty, batch_size=batch_size
        )
        assert got == wanted
    limits = {one.num_tokens for one in wanted if not one.ended}
    assert 14 in limits, "the asked limit is met"
    assert limits & {64 - 55, 64 - 60, 64 - 58}, "the context's limit is met"


def test_an_answer_ends_at_the_end_token_which_is_not_counted():
    model, tokenizer = decisive_llama(), tiny_tokenizer()
    plain = generate(model, tokenizer, prompts(), max_new_tokens=12, repetition_penalty=1.3)
    assert not all(one.ended for one in plain)
    third = tokenizer(plain[0].text)["input_ids"][2]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(third)
    answer = generate(model, tokenizer, prompts()[:1], max_new_tokens=12, repetition_penalty=1.3)[0]
    assert (answer.ended, answer.num_tokens) == (True, 2)
    assert answer.text == " ".join(plain[0].text.split()[:2])


def test_padding_is_not_penalised_in_older_transformers_either(monkeypatch):
    from transformers.generation import utils

    processor = utils.RepetitionPenaltyLogitsProcessor
    monkeypatch.setattr(utils, "RepetitionPenaltyLogitsProcessor", lambda penalty, **newer: processor(penalty))
    model, tokenizer = decisive_llama(), tiny_tokenizer(bos_token="<s>", eos_token="</s>")
    settings = {"max_new_tokens": 4, "repetition_penalty": 100.0}
    first = generate(model, tokenizer, ["w7"], **settings)[0].text.split()[0]
    tokenizer.eos_token = first
    alone, padded = (generate(model, tokenizer, ["w7", *more], **settings)[0] for more in ([], ["w8 w9 w10"]))
    assert alone == padded == Generated("", 0, ended=True)


def test_special_ends_of_the_model_end_an_answer_and_others_do_not():
    model, tokenizer = decisive_llama(), tiny_tokenizer()
    plain = generate(model, tokenizer, prompts()[:1], max_new_tokens=12, repetition_penalty=1.3)[0]
    third = tokenizer(plain.text)["input_ids"][2]
    model.generation_config.eos_token_id = [third]
    assert generate(model, tokenizer, prompts()[:1], max_new_tokens=12, repetition_penalty=1.3) == [plain]
    tokenizer.add_special_tokens({"additional_special_tokens": [tokenizer.convert_ids_to_tokens(third)]})
    answer = generate(model, tokenizer, prompts()[:1], max_new_tokens=12, repetition_penalty=1.3)[0]
    assert (answer.ended, answer.num_tokens) == (True, 2)


@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "lora"])
def test_the_models_own_settings_do_not_apply_and_are_put_back(wrap):
    model, tokenizer = decisive_llama(), tiny_tokenizer()
    if wrap:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    wanted = generate(model, tokenizer, prompts(), max_new_tokens=8)
    own = GenerationConfig(
        do_sample=True, temperature=5.0, max_length=4, min_new_tokens=8, no_repeat_ngram_size=1, eos_token_id=2
    )
    model.generation_config = own
    model.config.use_cache = False
    model.train()
    with attach(model, alpha=100.0):
        assert generate(model, tokenizer, prompts(), max_new_tokens=8) == wanted
    assert model.generation_config is own
    assert model.training
    assert model.config.use_cache is False


def test_settings_and_mode_are_put_back_after_an_exception():
    model, tokenizer = decisive_llama().train(), tiny_tokenizer()
    own = model.generation_config
    tokenizer.add_tokens(["outside"])
    with pytest.raises(IndexError):
        generate(model, tokenizer, ["outside"], max_new_tokens=2)
    assert model.generation_config is own
    assert model.training
    assert not model._forward_pre_hooks


def test_generating_moves_no_random_state():
    import torch

    model, tokenizer = decisive_llama(), tiny_tokenizer()
    before = torch.get_rng_state()
    generate(model, tokenizer, prompts(), max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_answered_is_refused():
    model, tokenizer = decisive_llama(), tiny_tokenizer()
    with pytest.raises(DataError, match="at least one prompt, got none"):
        generate(model, tokenizer, [], max_new_tokens=4)
    with pytest.raises(DataError, match="got none in prompt 1"):
        generate(model, tokenizer, ["w5", ""], max_new_tokens=4)
    long = " ".join(["w5"] * 64)
    with pytest.raises(DataError, match="context of 64 tokens, got 64 tokens in prompt 1"):
        generate(model, tokenizer, ["w5", long], max_new_tokens=4)
    assert prompt_room(model, tokenizer, long) == 0
    with pytest.raises(ModelError, match="end-of-sequence token, got none"):
        generate(model, tiny_tokenizer(bos_token="<s>", pad_token="<pad>"), ["w5"], max_new_tokens=4)
    for wrong in ({"max_new_tokens": 0}, {"max_new_tokens": 4, "batch_size": 0}):
        with pytest.raises(DataError, match="must be >= 1, got 0"):
            generate(model, tokenizer, ["w5"], **wrong)
    model.config.is_encoder_decoder = True
    with pytest.raises(ModelError, match="encoder-decoder"):
        generate(model, tokenizer, ["w5"], max_new_tokens=4)


@pytest.mark.parametrize(("name", "start"), [("stories260k", "Once upon a time, "), ("babyllama-tok105-0.9m", "Once ")])
def test_real_checkpoints_tell_the_same_story_in_every_batch(shared, name, start):
    folder = shared / "models" / name
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    starts = [start + who for who in ("there was", "a girl", "Tom", "the big dog and the small cat", "in a wood, a")]
    alone = generate(model, tokenizer, starts, max_new_tokens=24, repetition_penalty=1.2, batch_size=1)
    assert generate(model, tokenizer, starts, max_new_tokens=24, repetition_penalty=1.2, batch_size=3) == alone
    assert all(one.num_tokens == 24 and one.text for one in alone)


def test_end_tokens_end_an_answer_beside_eos():
    model, tokenizer = decisive_llama(), tiny_tokenizer()
    settings = {"max_new_tokens": 12, "repetition_penalty": 1.3}
    plain = generate(model, tokenizer, prompts()[:1], **settings)[0]
    third = tokenizer(plain.text)["input_ids"][2]
    answer = generate(model, tokenizer, prompts()[:1], **settings, end_tokens=[third, 2])[0]
    assert (answer.text, answer.num_tokens, answer.ended) == (" ".join(plain.text.split()[:2]), 2, True)


def test_response_ends_are_the_special_tokens_that_whole_responses_end_with():
    tokenizer = byte_level()
    end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    example = Example.make([Turn("user", "Hi"), Turn("assistant", "the end")])

    def ends(template: str, chat: str = CHATML, max_length: int = 99) -> tuple[int, ...]:
        tokenizer.chat_template = chat
        tokenised = tokenise([example], tokenizer, template=template, max_length=max_length)
        return response_ends(tokenised.documents, tokenizer)

    assert ends("chat") == ends("chat", MARKED) == (end,)
    assert ends("plain") == ends("chat", NO_END) == (eos,)
    whole = len(tokenise([example], tokenizer, template="plain", max_length=99).documents[0].input_ids)
    assert ends("plain", max_length=whole - 1) == ()
    assert response_ends([Document("a", (end, 5), (False, True))], tokenizer) == ()


def test_a_model_that_learnt_to_end_its_turn_is_heard_to_end_it(tmp_path):
    tokenizer = byte_level()
    tokenizer.chat_template, tokenizer.pad_token = CHATML, "<|endoftext|>"
    tokenizer.eos_token = "<|endoftext|>"
    turns = [Turn("user", "Hi"), Turn("assistant", "the")]
    data = DataSet({"test": (Example.make(turns),)}, "fingerprint", {})
    model = tiny_llama(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id).eval()
    documents = tokenise(data.parts["test"], tokenizer, template="chat", max_length=64).documents
    finetune(model, tokenizer, documents, settings=tiny_settings(tmp_path, batch_size=1, epochs=40))
    run = RunConfig.model_validate(
        {
            "model": {"path": "unused"},
            "data": {"template": "chat", "max_length": 64},
            "evaluate": {"parts": ["test"], "max_new_tokens": 12, "judge": None},
        }
    )
    answer = evaluate_model(model, tokenizer, data, run).answers["test"][0]
    assert (answer.text, answer.ended) == ("the", True)
    assert not generate(model, tokenizer, [answer.prompt], max_new_tokens=12)[0].ended


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_end_tokens_are_held_back_until_so_many_tokens(penalty):
    model, tokenizer = decisive_llama(), tiny_tokenizer()
    settings = {"max_new_tokens": 14, "repetition_penalty": penalty}
    plain = generate(model, tokenizer, prompts(), **settings)
    early = next(one for one in plain if one.num_tokens == 14)
    ends = sorted(set(tokenizer(early.text)["input_ids"][1:4]))
    wanted = [
        slow(model, tokenizer, one, penalty=penalty, max_new_tokens=14, ends=(2, *ends), held_back=6)
        for one in prompts()
    ]
    assert any(one.ended for one in wanted)
    assert all(one.num_tokens >= 6 or not one.ended for one in wanted)
    for batch_size in (1, 3, 64):
        held = generate(
            model, tokenizer, prompts(), **settings, batch_size=batch_size, end_tokens=ends, min_new_tokens=6
        )
        assert held == wanted
    without = generate(model, tokenizer, prompts(), **settings, end_tokens=ends)
    assert any(one.ended and one.num_tokens < 6 for one in without), "or there was nothing to hold back"


@pytest.mark.parametrize("wrong", [-1, 5])
def test_what_cannot_be_held_back_is_refused(wrong):
    with pytest.raises(DataError, match=f"from 0 to max_new_tokens=4, got {wrong}"):
        generate(decisive_llama(), tiny_tokenizer(), ["w5"], max_new_tokens=4, min_new_tokens=wrong)
