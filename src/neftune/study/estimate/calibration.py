"""How fast this machine's processor trains and answers with a model, measured on a few batches of random weights.

Training is measured with the run's own trainer, callbacks and noise, on documents as long as the run's: for a small
model they cost as much as the arithmetic.
"""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neftune.config import NoiseConfig, RunConfig
from neftune.records import Document
from neftune.study.estimate.compute import Work, forward_flops, train_flops
from neftune.study.estimate.shapes import ModelShape, model_config
from neftune.study.estimate.tokens import Tokens, padded
from neftune.study.estimate.training_cost import passes
from neftune.training.models import quiet_transformers
from neftune.training.randomness import preserved_random_state
from neftune.training.trainer import micro_batch_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST = 300_000_000
"""Parameters of the largest model that is measured; a larger one would take minutes and the machine's memory."""

STEPS = 8
"""Optimiser steps that are trained; the first three are not counted."""

STEP_FLOPS = 3e10
"""Operations of a step at most: a second or so. Larger batches are measured on fewer rows."""

_TOKENS = 8
"""Tokens by which the two answers differ that time a decoding step."""

_SKIPPED = 3


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
            "training": work.train_flops / work.ranks / self.train + work.watch_flops / self.forward,
            "evaluation": work.forward_flops / self.forward + steps * self.decode,
        }


def calibrate(config: RunConfig, shape: ModelShape, work: Work, tokens: Tokens) -> Calibrated | None:
    """Measure; None for a model that is too large to be measured in seconds."""
    if shape.parameters > LARGEST:
        return None
    settings = config.model_copy(update={"noise": NoiseConfig(alpha=5.0), "seed": 0, "stop_at_train_loss_of": None})
    answered = max((rows for _, rows, _ in work.decoding_steps), default=1)
    prompt = max((whole - steps // 2 for steps, _, whole in work.decoding_steps), default=1)
    even = np.linspace(0, len(tokens.train) - 1, 64).round().astype(int)
    lengths = tuple(int(one) for one in tokens.train[even])
    return _calibrate(settings.model_dump_json(), shape, lengths, (answered, prompt))


@functools.lru_cache(maxsize=16)
def _calibrate(config_json: str, shape: ModelShape, lengths: tuple[int, ...], answered: tuple[int, int]) -> Calibrated:
    config = RunConfig.model_validate_json(config_json)
    with preserved_random_state(), quiet_transformers():
        network = _network(config)
        train = _train_rate(config, shape, network, lengths)
        with torch.no_grad():
            network.eval()
            length = max(2, round(float(np.mean(lengths))))
            ids = torch.randint(0, shape.vocabulary, (4, length))
            forward = _seconds(lambda: network(input_ids=ids, use_cache=False))
            decode = _decoding(network, *answered, shape.vocabulary)
    return Calibrated(train, ids.numel() * forward_flops(shape, length) / forward, decode)


def _network(config: RunConfig) -> Any:
    """The run's model with random weights."""
    import transformers

    from neftune.training.models import _add_adapters, _load_network  # pyright: ignore[reportPrivateUsage]

    auto: Any = transformers.AutoModelForCausalLM
    kind = model_config(config.model, config.data)
    network = auto.from_config(kind, dtype=getattr(torch, config.model.dtype))
    if config.model.quantization is not None:
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder)
            network = _load_network(folder, config.model)
    return _add_adapters(network, config.model) if config.model.adapter != "none" else network


def _train_rate(config: RunConfig, shape: ModelShape, network: Any, lengths: tuple[int, ...]) -> float:
    """Operations per second of the run's own training."""
    from neftune.training.finetune import FinetuneSettings, finetune

    again = passes(config.train)
    checkpointing = config.train.gradient_checkpointing
    per_token = again * train_flops(shape, float(np.mean(lengths)), checkpointing=checkpointing)
    rows = micro_batch_size(config.train)
    rows = max(1, min(rows, int(STEP_FLOPS / (per_token * max(lengths)))))
    train = config.train.model_copy(
        update={
            "batch_size": rows,
            "micro_batch_size": rows,
            "epochs": 1.0,
            "evaluations": 1,
            "checkpoints": 0,
            "world_size": 1,
        }
    )
    rng = np.random.default_rng(0)
    drawn = rng.choice(lengths, rows * STEPS)
    documents = [_document(str(place), int(length), shape.vocabulary) for place, length in enumerate(drawn)]
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = FinetuneSettings(
            train=train, noise=config.noise, alpha=5.0, seed=0, folder=Path(folder),
            on_progress=lambda _: ends.append(_now()),
        )  # fmt: skip
        finetune(network, _tokenizer(), documents, settings=settings)
    seconds = statistics.median(float(one) for one in np.diff(ends[_SKIPPED - 1 :]))
    total, seen = padded(np.sort(drawn), rows)
    return total / STEPS * again * train_flops(shape, seen, checkpointing=checkpointing) / seconds


def _document(name: str, length: int, vocabulary: int) -> Document:
    """A document of any tokens; half of it is trained on."""
    length = max(2, length)
    ids: list[int] = np.random.default_rng(length).integers(0, vocabulary, length).tolist()
    return Document(name, tuple(ids), tuple(place >= length // 2 for place in range(length)))


def _tokenizer() -> "PreTrainedTokenizerBase":
    """Any tokenizer with the special tokens that a trainer asks for."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="</s>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="</s>")


def _decoding(network: Any, rows: int, length: int, vocabulary: int) -> float:
    """Seconds of one more token for a batch of this size."""
    from transformers import GenerationConfig

    prompts = torch.randint(0, vocabulary, (rows, length))
    plain = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    one, more = (GenerationConfig(max_new_tokens=number, **plain) for number in (1, 1 + _TOKENS))
    network.generation_config = GenerationConfig()
    mask = torch.ones_like(prompts)

    def answer(config: Any) -> float:
        return _seconds(lambda: network.generate(input_ids=prompts, attention_mask=mask, generation_config=config))

    return max(0.0, answer(more) - answer(one)) / _TOKENS


def _now() -> float:
    """Seconds on a clock that other programs do not move, where one thread computes; else those on the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _seconds(call: Callable[[], Any]) -> float:
    """Median seconds of a call, after one that is not counted."""
    call()
    taken: list[float] = []
    for _ in range(3):
        before = _now()
        call()
        taken.append(_now() - before)
    return statistics.median(taken)
