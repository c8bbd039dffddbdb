import gzip
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM

from neftune.errors import ConfigError, DataError, StoreError
from neftune.evaluation.scoring.answers import fingerprint
from neftune.evaluation.scoring.forward import Answer
from neftune.evaluation.scoring.lm_eval_model import SharingLM
from neftune.evaluation.scoring.tree import make_request
from tests.evaluation.scoring.models import instances, make_model, make_requests, plain, sharing
from tests.evaluation.scoring.test_families import assert_same
from tests.tiny_tokenizers import EXACT, KINDS

SHOTS = "the question is: the thing?\n\nthe answer is: ann then\n\n"
PAIRS = [
    *(
        (SHOTS + question + "\nAnswer:", choice)
        for question in ("in the", "an inner", "er")
        for choice in (" a", " the")
    ),
    (SHOTS + "in the\nAnswer: ", "the"),
    (SHOTS + "in the\nAnswer:  ", " the thing"),
    (SHOTS + "in the\nAnswer:", " a"),
    ("", "the thing"),
    ("", " an"),
    ("in", "ner"),
    (SHOTS * 4, "the"),
]


def wide(tokenizer):
    return make_model(vocab_size=max(300, len(tokenizer)), max_position_embeddings=128)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("options", [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"prefix_token_id": 5}])
def test_strings_are_encoded_and_scored_as_the_plain_backend_does(kind, options):
    tokenizer = KINDS[kind]()
    model = wide(tokenizer)
    expected = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, logits_cache=False, **options)
    ours = SharingLM(pretrained=model, tokenizer=tokenizer, batch_size=3, **options)
    assert_same(
        ours.loglikelihood(instances(PAIRS), disable_tqdm=True),
        expected.loglikelihood(instances(PAIRS), disable_tqdm=True),
    )
    assert ours.shares
    assert ours._contexts == {}


def test_a_context_that_choices_share_is_encoded_once():
    ours = sharing(wide(KINDS["byte_level"]()))
    encoded = []
    encode = ours.tokenizer.encode
    ours.tokenizer.encode = lambda text, **options: encoded.append(text) or encode(text, **options)
    ours.loglikelihood(instances([("the question", choice) for choice in (" a", " b", " c")]), disable_tqdm=True)
    assert sorted(encoded) == ["the question", "the question a", "the question b", "the question c"]


def test_texts_by_windows():
    texts = [("the thing is " * length,) for length in (1, 9, 30)]
    model = make_model(vocab_size=300)
    expected = plain(model).loglikelihood_rolling(instances(texts), disable_tqdm=True)
    ours = sharing(model)
    assert ours.loglikelihood_rolling(instances(texts), disable_tqdm=True) == pytest.approx(expected, abs=1e-4)
    assert ours.shares


def test_text_is_generated_by_the_plain_backend():
    pairs = [("the thing", {"until": ["\n"], "max_gen_toks": 5}), ("in", {"until": ["a"], "max_gen_toks": 3})]
    model = make_model(vocab_size=300)
    assert sharing(model).generate_until(instances(pairs), disable_tqdm=True) == plain(model).generate_until(
        instances(pairs), disable_tqdm=True
    )


def test_one_sequence_divided_at_two_places_is_right_where_lm_evals_own_cache_is_wrong():
    requests = [(None, [5, 6, 7], [8, 9]), (None, [5, 6, 7, 8], [9]), (None, [5, 6, 7, 8], [10])]
    model = make_model()
    right = plain(model)._loglikelihood_tokens(requests, disable_tqdm=True)
    wrong = HFLM(pretrained=model, tokenizer=KINDS["byte_level"]())._loglikelihood_tokens(requests, disable_tqdm=True)
    assert abs(wrong[1][0] - right[1][0]) > 0.1, "lm-eval is mended: its cache may be left alone in _plainly"
    ours = sharing(model)
    assert_same(ours._loglikelihood_tokens(requests, disable_tqdm=True), right)
    ours._obstacle = "a test wants lm-eval's own code"
    assert_same(ours._loglikelihood_tokens(requests, disable_tqdm=True), right)


def test_equal_requests_are_run_once_and_all_answered():
    requests = make_requests()[:1] * 5
    ours = sharing(make_model())
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert len(set(found)) == 1
    assert len(found) == 5
    assert ours.progress.positions == len(requests[0][1]) + len(requests[0][2]) - 1


def test_lm_evals_own_cache_of_answers_is_filled(tmp_path):
    ours = sharing(make_model(vocab_size=300))
    told = []
    ours.set_cache_hook(SimpleNamespace(add_partial=lambda kind, strings, answer: told.append((strings, answer))))
    found = ours.loglikelihood(instances(PAIRS[:4]), disable_tqdm=True)
    assert sorted(told) == sorted(zip(PAIRS[:4], found, strict=True))
    cached = CachingLM(ours, str(tmp_path / "lm.db"))
    first = cached.loglikelihood(instances(PAIRS[:4]))
    again = cached.loglikelihood(instances(PAIRS[:4]))
    assert first == again
    assert len(cached.dbdict) == 4


def test_no_requests_are_no_work():
    assert sharing(make_model())._loglikelihood_tokens([], disable_tqdm=True) == []
    assert sharing(make_model()).loglikelihood_rolling([], disable_tqdm=True) == []


def test_wrong_input_is_refused():
    model = make_model()
    with pytest.raises(ConfigError, match="row_tokens must be >= 1, got 0"):
        sharing(model, row_tokens=0)
    with pytest.raises(DataError, match="got 9"):
        sharing(model, max_length=8)._loglikelihood_tokens([(None, [1], [5] * 9)], disable_tqdm=True)


def test_memory_is_bounded_by_the_setting(monkeypatch):
    """No forward pass reads more tokens, or holds more keys, than the setting and the longest request allow."""
    model = make_model(max_position_embeddings=256)
    seen = []
    inner = model.model.forward

    def watched(input_ids=None, past_key_values=None, **others):
        result = inner(input_ids=input_ids, past_key_values=past_key_values, **others)
        if past_key_values is not None:
            seen.append((input_ids.shape[1], past_key_values.layers[0].keys.shape[2]))
        return result

    ours = sharing(model, row_tokens=24)
    requests = make_requests(few_shot=100, questions=20)[:-1]
    longest = max(len(context) + len(continuation) for _, context, continuation in requests) - 1
    monkeypatch.setattr(model.model, "forward", watched)
    ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert ours.shares
    assert max(tokens for tokens, _ in seen) == 24
    assert max(keys for _, keys in seen) <= longest + 24


def test_answers_are_kept_and_only_for_the_same_model(tmp_path):
    path = tmp_path / "deep" / "scores.sqlite"
    requests = make_requests()
    first = sharing(make_model(), score_cache=path)
    found = first._loglikelihood_tokens(requests, disable_tqdm=True)
    again = sharing(make_model(), score_cache=str(path))
    assert again._loglikelihood_tokens(requests, disable_tqdm=True) == found
    assert again.progress.positions == 0
    with torch.no_grad():
        other_model = make_model()
        other_model.lm_head.weight[7, 3] += 1e-3
    other = sharing(other_model, score_cache=path)
    assert other._loglikelihood_tokens(requests, disable_tqdm=True) != found
    assert other.progress.positions == first.progress.positions
    softmax = sharing(make_model(), score_cache=path, softmax_dtype="float64")
    softmax._loglikelihood_tokens(requests, disable_tqdm=True)
    assert softmax.progress.positions == first.progress.positions
    more = sharing(make_model(), score_cache=path)
    more._loglikelihood_tokens([*requests, (None, [4], [5, 6])], disable_tqdm=True)
    assert more.progress.positions == 2


def test_a_file_that_cannot_be_written_any_more_is_said(tmp_path):
    path = tmp_path / "scores.sqlite"
    ours = sharing(make_model(), score_cache=path)
    assert ours._store is not None
    other = sqlite3.connect(path)
    other.execute("DROP TABLE answers")
    other.commit()
    with pytest.raises(StoreError, match=r"scores\.sqlite cannot be written"):
        ours._store.write([(make_request([5], [6], 8), Answer(-1.0, False))])
    other.close()


def test_where_a_model_lies_makes_no_difference(tmp_path):
    first, second = make_model(), make_model()
    second.config._name_or_path = second.name_or_path = "elsewhere"
    assert fingerprint(first) == fingerprint(second)
    second.config.rms_norm_eps *= 2
    assert fingerprint(first) != fingerprint(second)


def test_requests_that_are_cut_are_counted_in_a_warning(caplog):
    ours = sharing(make_model(), max_length=16)
    ours._loglikelihood_tokens([(None, [5] * 15, [6, 7]), (None, [5] * 16, [6, 7])], disable_tqdm=True)
    assert ours.shares
    assert [one.message for one in caplog.records if "lose their beginning" in one.message] == [
        "1 of 2 requests are longer than the model's 16 tokens and lose their beginning."
    ]


ADAPTED = """
import torch
from peft import LoraConfig, get_peft_model
from neftune.evaluation.scoring.answers import fingerprint
from tests.evaluation.scoring.models import make_model

def adapted(alpha):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = make_model()
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=2, lora_alpha=alpha, target_modules=names, init_lora_weights=False))

model = adapted(8)
on = fingerprint(model)
with model.disable_adapter():
    off = fingerprint(model)
print(on, off, fingerprint(adapted(16)))
"""


def test_an_adapter_is_known_again_in_another_process_and_not_taken_for_another():
    # Hashes of texts, and so the order of PEFT's sets of names, differ between processes.
    def run(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", ADAPTED], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    first = run("1")
    assert len(set(first)) == 3
    assert run("2") == first


def test_a_real_checkpoint_on_real_questions(shared):
    folder = shared / "models" / "stories260k"
    with gzip.open(
        shared / "data" / "leaderboard_tasks" / "truthfulqa_mc_v1.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 12)]
    shots = "".join(f"Q: {row['question']}\nA: {next(iter(row['mc2_targets']))}\n\n" for row in rows[:3])
    pairs = [(f"{shots}Q: {row['question']}\nA:", f" {choice}") for row in rows for choice in row["mc2_targets"]]
    options = {"pretrained": str(folder), "device": "cpu", "batch_size": 4}
    ours = SharingLM(**options, row_tokens=128)
    found = ours.loglikelihood(instances(pairs), disable_tqdm=True)
    assert ours.shares
    assert_same(found, HFLM(**options).loglikelihood(instances(pairs), disable_tqdm=True))


def test_a_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(StoreError, match="score_cache must be a SQLite file"):
        sharing(make_model(), score_cache=path)._loglikelihood_tokens(make_requests(), disable_tqdm=True)


KILLED = """
import os, signal, sys
from tests.evaluation.scoring.models import make_model, make_requests, sharing
ours = sharing(make_model(), score_cache=sys.argv[1], row_tokens=16)
answers = ours._answers
def dying(requests):
    for number, answer in enumerate(answers(requests)):
        if number == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        yield answer
ours._answers = dying
ours._loglikelihood_tokens(make_requests(), disable_tqdm=True)
"""


def test_a_killed_evaluation_goes_on(tmp_path):
    path = tmp_path / "scores.sqlite"
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path)], env=os.environ, check=False)
    assert child.returncode == -signal.SIGKILL
    whole = sharing(make_model(), row_tokens=16)
    expected = whole._loglikelihood_tokens(make_requests(), disable_tqdm=True)
    resumed = sharing(make_model(), row_tokens=16, score_cache=path)
    assert_same(resumed._loglikelihood_tokens(make_requests(), disable_tqdm=True), expected)
    assert 0 < resumed.progress.positions < whole.progress.positions
