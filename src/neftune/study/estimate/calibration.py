"""How fast this machine's processor trains and answers with a model, measured on a few batches of random weights."""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from neftune.config import NoiseConfig, RunConfig
from neftune.study.estimate.compute import Work, forward_flops, train_flops
from neftune.study.estimate.shapes import ModelShape, model_config
from neftune.training.models import quiet_transformers
from neftune.training.randomness import preserved_random_state

LARGEST = 300_000_000
"""Parameters of the largest model that is measured; a larger one would take minutes and the machine's memory."""

SECONDS = 1.5
"""Time that one measurement takes, at least three repetitions."""

_TOKENS = 8
"""Tokens by which the two answers differ that time a decoding step."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """FLOP/s of a model here while training and while going forward, and seconds of a decoding step of a batch."""

    train: float
    forward: float
    decode: float

    def seconds(self, work: Work) -> dict[str, float]:
        """Seconds by stage."""
        steps = sum(number for number, _, _ in work.decoding_steps)
        return {
            "training": work.train_flops / self.train,
            "evaluation": work.forward_flops / self.forward + steps * self.decode,
        }


def calibrate(config: RunConfig, shape: ModelShape, work: Work, *, rows: int, length: int) -> Calibrated | None:
    """Measure; None for a model that is too large to be measured in seconds."""
    if shape.parameters > LARGEST:
        return None
    answered = max((rows for _, rows, _ in work.decoding_steps), default=1)
    prompt = max((whole - steps // 2 for steps, _, whole in work.decoding_steps), default=1)
    settings = config.model_copy(update={"noise": NoiseConfig(alpha=0.0), "seed": 0, "stop_at_train_loss_of": None})
    return _calibrate(settings.model_dump_json(), shape, (rows, length), (answered, prompt))


@functools.lru_cache(maxsize=16)
def _calibrate(config_json: str, shape: ModelShape, trained: tuple[int, int], answered: tuple[int, int]) -> Calibrated:
    import transformers

    auto: Any = transformers.AutoModelForCausalLM

    config = RunConfig.model_validate_json(config_json)
    checkpointing = config.train.gradient_checkpointing
    kind, dtype = model_config(config.model, config.data), getattr(torch, config.model.dtype)
    with quiet_transformers(), preserved_random_state():
        network: Any = auto.from_config(kind, dtype=dtype)
        ids = torch.randint(0, shape.vocabulary, trained)
        if checkpointing:
            network.gradient_checkpointing_enable()
        network.train()
        weights: list[torch.nn.Parameter] = list(network.parameters())
        optimizer: Any = torch.optim.AdamW(weights)

        def step() -> None:
            network(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        train = _seconds(step)
        network.eval()
        with torch.no_grad():
            forward = _seconds(lambda: network(input_ids=ids, use_cache=False))
            decode = _decoding(network, *answered, shape.vocabulary)
    tokens, length = trained[0] * trained[1], trained[1]
    return Calibrated(
        tokens * train_flops(shape, length, checkpointing=checkpointing) / train,
        tokens * forward_flops(shape, length) / forward,
        decode,
    )


def _decoding(network: Any, rows: int, length: int, vocabulary: int) -> float:
    """Seconds of one more token for a batch of this size."""
    from transformers import GenerationConfig

    prompts = torch.randint(0, vocabulary, (rows, length))
    plain = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    one, more = (GenerationConfig(max_new_tokens=number, **plain) for number in (1, 1 + _TOKENS))
    network.generation_config = GenerationConfig()
    mask = torch.ones_like(prompts)

    def answer(config: Any) -> float:
        return _seconds(lambda: network.generate(prompts, attention_mask=mask, generation_config=config))

    return max(0.0, answer(more) - answer(one)) / _TOKENS


def _seconds(call: Callable[[], Any]) -> float:
    """Median seconds of a call, after one that is not counted."""
    call()
    taken: list[float] = []
    start = time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        call()
        taken.append(time.perf_counter() - before)
    return statistics.median(taken)
