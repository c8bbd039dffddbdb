"""What benchmarks.scoring runs: lm-eval's requests from local files, a tokenizer trained here, random models."""

import gzip
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neftune.evaluation.benchmarks.lm import SEED, evaluation_state
from neftune.evaluation.benchmarks.tasks import LEADERBOARD, TaskOptions, load_tasks
from neftune.evaluation.scoring.lm_eval_model import SharingLM

VOCABULARY = 4096
_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_LARGE = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1536}
MODELS: Mapping[str, Mapping[str, int]] = {"equality": _SMALL, "time": _LARGE}
"""The second has 31 million weights, of which the head is 7%."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some documents of a task.

    Attributes:
        name: The task's, and which documents.
        task: lm-eval's Task.
        instances: The documents' requests, as lm-eval builds them.
    """

    name: str
    task: Any
    instances: list[Any]

    def outcomes(self, answers: list[tuple[float, bool]]) -> dict[int, dict[str, Any]]:
        """What lm-eval makes of a model's answers, by document."""
        documents: dict[int, list[tuple[int, tuple[float, bool]]]] = {}
        docs: dict[int, Any] = {}
        for instance, answer in zip(self.instances, answers, strict=True):
            documents.setdefault(instance.doc_id, []).append((instance.idx, answer))
            docs[instance.doc_id] = instance.doc
        return {
            number: self.task.process_results(docs[number], [answer for _, answer in sorted(found)])
            for number, found in documents.items()
        }


def make_parts(task: str, data: Path, *, documents: int | None, limit: int | None = None) -> Iterator[Part]:
    """A benchmark's requests: MMLU by subject, the others by so many documents (all at once where None).

    Args:
        task: lm-eval's name of it.
        data: Folder with the task files.
        documents: Of one part.
        limit: Documents per task, the first ones; None takes all.
    """
    shots = {task: LEADERBOARD["mmlu"]} if task.startswith("mmlu_") else {}
    (loaded,) = load_tasks([task], TaskOptions(data=data, shots=shots))
    for name, leaf in loaded.leaves.items():
        leaf.set_fewshot_seed(seed=SEED)
        leaf.build_all_requests(limit=limit, rank=0, world_size=1)
        if documents is None or len(loaded.leaves) > 1:
            yield Part(name, leaf, leaf.instances)
            continue
        last = max(instance.doc_id for instance in leaf.instances)
        for start in range(0, last + 1, documents):
            chosen = [one for one in leaf.instances if start <= one.doc_id < start + documents]
            yield Part(f"{name}[{start}:{min(start + documents, last + 1)}]", leaf, chosen)


def make_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE, trained here on general text: one made of the benchmarks would shorten what they repeat.

    Args:
        path: Gzipped JSON lines of {"instruction", "output"}.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(_texts(path), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def _texts(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in itertools.islice(lines, 20000):
            row = json.loads(line)
            yield f"{row['instruction']} {row['output']}"


def make_model(size: str) -> Any:
    """A random Llama whose outputs differ from token to token, with room for every prompt: some have 4,400 tokens."""
    torch.manual_seed(0)
    scale = 0.1 if size == "equality" else 0.05
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=8192, initializer_range=scale, **MODELS[size])
    return LlamaForCausalLM(config).eval()


def make_backend(kind: str, model: Any, tokenizer: Any, batch_size: int) -> Any:
    """lm-eval's `hf`, or ours."""
    backend = {"hf": HFLM, "neftune": SharingLM}[kind]
    return backend(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


@contextmanager
def counted_positions(model: Any) -> Iterator[list[int]]:
    """The numbers of token positions of all forward passes inside, padding included."""
    found: list[int] = []

    def count(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append((arguments[0] if arguments else named["input_ids"]).numel())

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


__all__ = [
    "Part",
    "counted_positions",
    "evaluation_state",
    "make_backend",
    "make_model",
    "make_parts",
    "make_tokenizer",
]
