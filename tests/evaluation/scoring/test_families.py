"""On every family the same numbers as lm-eval's own backend, or its own backend and the reason."""

import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.evaluation.scoring.models import make_model, make_requests, plain, sharing
from tests.tiny_families import VOCAB

SHARED = [
    "llama", "llama-tied", "ministral3", "qwen2", "qwen3", "qwen3-moe", "gemma", "phi", "phi3", "opt", "opt-projected",
    "gpt2", "gptj", "gpt-neox", "falcon", "granite", "cohere", "olmo2", "stablelm", "starcoder2", "smollm3", "glm4",
    "mixtral", "deepseek-v3",
]  # fmt: skip
NOT_SHARED = {
    "gemma2": "sliding_attention",
    "gemma3": "sliding_attention",
    "gpt-oss": "sliding_attention",
    "qwen3-next": "linear_attention",
    "falcon-h1": "layers of type",  # transformers calls them mamba or hybrid, by what ran before in the process
    "mamba": "no position_ids",
    "bloom": "no position_ids",
}


def assert_same(found, expected, tolerance=1e-4):
    assert len(found) == len(expected)
    for (value, greedy), (true, true_greedy) in zip(found, expected, strict=True):
        assert value == pytest.approx(true, abs=tolerance)
        assert greedy == true_greedy


@pytest.mark.parametrize("family", SHARED)
def test_shared_families_answer_as_the_plain_backend(family):
    model = make_model(family)
    requests = make_requests()
    expected = plain(model)._loglikelihood_tokens(requests, disable_tqdm=True)
    for row_tokens in (5, 64):
        ours = sharing(model, row_tokens=row_tokens)
        found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
        assert ours.shares
        assert_same(found, expected)
        assert ours.progress.positions < 150


def test_a_model_that_cannot_choose_its_logits(monkeypatch):
    monkeypatch.setattr("neftune.evaluation.scoring.forward.keeps_logits", lambda model: False)
    model = make_model()
    ours = sharing(model, row_tokens=16)
    found = ours._loglikelihood_tokens(make_requests(), disable_tqdm=True)
    assert ours.shares
    assert_same(found, plain(model)._loglikelihood_tokens(make_requests(), disable_tqdm=True))


@pytest.mark.parametrize("family", NOT_SHARED)
def test_other_families_fall_back_and_say_why(family, caplog):
    model = make_model(family)
    requests = make_requests(questions=1)[:-1]
    expected = plain(model)._loglikelihood_tokens(requests, disable_tqdm=True)
    with caplog.at_level(logging.WARNING, logger="neftune"):
        ours = sharing(model)
    assert not ours.shares
    assert NOT_SHARED[family] in caplog.text
    assert_same(ours._loglikelihood_tokens(requests, disable_tqdm=True), expected)


@pytest.mark.parametrize(
    ("family", "changed", "reason"),
    [
        ("mistral", {"sliding_window": 16}, "sliding_window=16"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("llama", {"attn_implementation": "flex_attention"}, "flex_attention"),
    ],
)
def test_what_a_setting_forbids_falls_back(family, changed, reason, caplog):
    with caplog.at_level(logging.WARNING, logger="neftune"):
        assert not sharing(make_model(family, **changed)).shares
    assert reason in caplog.text


def test_a_window_that_no_request_reaches_is_no_obstacle():
    model = make_model("mistral", sliding_window=32)
    requests = make_requests()
    ours = sharing(model, max_length=32)
    assert ours.shares
    assert_same(
        ours._loglikelihood_tokens(requests, disable_tqdm=True),
        plain(model, max_length=32)._loglikelihood_tokens(requests, disable_tqdm=True),
    )


def test_a_model_that_no_rule_knows_is_found_out_by_its_own_numbers(caplog):
    """A causal mask that looks at the last 6 tokens only, hidden from the configuration."""
    model = make_model("mistral", sliding_window=6)
    model.config.sliding_window = None
    requests = make_requests()
    expected = plain(model)._loglikelihood_tokens(requests, disable_tqdm=True)

    class Hidden(type(model.model)):
        def forward(self, *arguments, **others):
            self.config.sliding_window = 6
            try:
                return super().forward(*arguments, **others)
            finally:
                self.config.sliding_window = None

    model.model.__class__ = Hidden
    narrow = plain(model)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert narrow != expected
    ours = sharing(model)
    assert ours.shares
    with caplog.at_level(logging.WARNING, logger="neftune"):
        assert_same(ours._loglikelihood_tokens(requests, disable_tqdm=True), narrow)
    assert not ours.shares
    assert "nats per token apart from a plain pass" in caplog.text


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["lora", "ia3", "prompt", "prefix"])
def test_adapters(kind, caplog):
    peft = pytest.importorskip("peft")
    configs = {
        "lora": peft.LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        ),
        "ia3": peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False),
        "prompt": peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    }
    bare = plain(make_model())._loglikelihood_tokens(make_requests()[:-1], disable_tqdm=True)
    model = peft.get_peft_model(make_model(), configs[kind]).eval()
    requests = make_requests()[:-1]
    expected = plain(model)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert expected != bare
    with caplog.at_level(logging.WARNING, logger="neftune"):
        ours = sharing(model)
    assert ours.shares == (kind in ("lora", "ia3"))
    assert ours.shares or "PEFT's type" in caplog.text
    assert_same(ours._loglikelihood_tokens(requests, disable_tqdm=True), expected)


def test_in_bfloat16_the_two_differ_as_two_batch_sizes_do():
    """A stated tolerance: 0.25 nats a token at these lively weights, and 0.05 on average."""
    model = make_model().to(torch.bfloat16)
    requests = make_requests()
    expected = plain(model)._loglikelihood_tokens(requests, disable_tqdm=True)
    ours = sharing(model)
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert ours.shares
    off = [abs(a[0] - b[0]) / len(request[2]) for a, b, request in zip(found, expected, requests, strict=True)]
    assert max(off) < 0.25
    assert sum(off) / len(off) < 0.05


IDS = st.integers(3, 6) | st.integers(3, VOCAB - 1)


@st.composite
def token_requests(draw):
    """Few tokens, so that prefixes meet; one sequence divided at several places; contexts beyond the model's length."""
    pool = draw(st.lists(st.lists(IDS, min_size=2, max_size=25), min_size=1, max_size=4))
    found = []
    for _ in range(draw(st.integers(1, 10))):
        sequence = draw(st.sampled_from(pool)) * draw(st.integers(1, 3))
        end = draw(st.integers(2, len(sequence)))
        split = draw(st.integers(max(1, end - 12), end - 1))
        found.append((None, sequence[:split], sequence[split:end]))
    return found


MODELS: dict = {}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=token_requests(), row_tokens=st.integers(1, 40))
def test_any_requests(family, requests, row_tokens):
    model = MODELS.setdefault(family, make_model(family))
    ours = sharing(model, row_tokens=row_tokens, max_length=20)
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert ours.shares
    assert_same(found, plain(model, max_length=20)._loglikelihood_tokens(requests, disable_tqdm=True))
