"""The callback in TRL's trainers that generate: clean completions, clean old log-probabilities, a noised loss."""

from typing import Any

import pytest
import torch

import neftune
from tests.tiny import make_checkpoint
from tests.tiny_trl import load_model, make_trainer
from tests.witness import Witness

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

GREEDY = {"generation_kwargs": {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model"), width=16)


@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_greedy_generation_inside_training_is_the_models_without_noise(checkpoint, tmp_path, name):
    heard: dict[tuple[int, ...], list[int]] = {}

    def reward(prompts: list[str], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        for prompt, completion in zip(prompts, completion_ids, strict=True):
            heard[tuple(trainer.processing_class(prompt)["input_ids"])] = list(completion)
        return [float(i) for i in range(len(prompts))]

    noise, witness = neftune.NoiseCallback(100.0), Witness(100.0)
    given = {"reward_funcs": reward}
    options = {"learning_rate": 0.0, "max_steps": 4, **GREEDY}
    trainer = make_trainer(name, checkpoint, tmp_path, [noise, witness], given=given, **options)
    trainer.train()
    assert len(heard) == 8
    assert witness.generations
    model = load_model(checkpoint).eval()
    for prompt, completion in heard.items():
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
        assert completion == expected.tolist()


@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_each_completion_is_noised_by_the_length_of_its_prompt_and_itself(checkpoint, tmp_path, name):
    heard: set[tuple[int, ...]] = set()

    def reward(prompts: list[str], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        for prompt, completion in zip(prompts, completion_ids, strict=True):
            heard.add((*trainer.processing_class(prompt)["input_ids"], *completion))
        return [float(i) for i in range(len(prompts))]

    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    given = {"reward_funcs": reward}
    trainer = make_trainer(name, checkpoint, tmp_path, [noise, witness], given=given, max_steps=4)
    trainer.train()
    noised = {document for seen in witness.noised for document in seen.documents}
    assert noised == heard
    assert len({len(document) for document in noised}) > 4


def test_old_log_probabilities_are_clean_and_every_pass_over_a_completion_is_an_exposure(checkpoint, tmp_path):
    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0, per_step=True)
    make_trainer("GRPO", checkpoint, tmp_path, [noise, witness], num_iterations=2, max_steps=4).train()
    old = [seen.documents for seen in witness.clean]
    assert len(old) == 2, "one pass under no_grad for each generation"
    by_completion: dict[tuple[int, ...], set[int]] = {}
    for seen in witness.noised:
        for document in seen.documents:
            by_completion.setdefault(document, set()).add(seen.draw)
    assert by_completion.keys() == {document for documents in old for document in documents}
    assert all(len(draws) == 2 for draws in by_completion.values()), "both passes see noise of their own"


def test_completions_alone_are_noised(checkpoint, tmp_path):
    tokens = {}
    for positions in ("all", "prompt", "response"):
        noise = neftune.NoiseCallback(20.0, positions=positions)
        make_trainer("GRPO", checkpoint, tmp_path, [noise], learning_rate=0.0).train()
        tokens[positions] = noise.realised().num_tokens
    assert 0 < tokens["response"] <= 8 * 12
    assert tokens["all"] == tokens["prompt"] + tokens["response"]


MODES = {
    "recomputed": {"gradient_checkpointing": True},
    "recomputed reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "reference": {"beta": 0.1},
    "generated for several steps": {"steps_per_generation": 2, "max_steps": 4},
    "cut completions masked": {"mask_truncated_completions": True, "max_completion_length": 6},
    "sequence ratios": {"importance_sampling_level": "sequence"},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_grpo(checkpoint, tmp_path, mode):
    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    make_trainer("GRPO", checkpoint, tmp_path, [noise, witness], **MODES[mode]).train()
    lengths = [length for seen in witness.noised for length in seen.lengths]
    assert noise.realised().num_tokens == sum(lengths)
    assert witness.generations


def test_a_reference_that_is_the_model_without_its_adapter_is_clean(checkpoint, tmp_path):
    from peft import LoraConfig

    noise, witness = neftune.NoiseCallback(20.0), Witness(20.0)
    given = {"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"], r=2, task_type="CAUSAL_LM")}
    make_trainer("GRPO", checkpoint, tmp_path, [noise, witness], given=given, beta=0.1).train()
    assert len(witness.clean) == len(witness.noised) == 2
