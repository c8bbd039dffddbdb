"""A model, a tokenizer and documents small enough to train in a test."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neftune.config import NoiseConfig, TrainConfig
from neftune.records import Document
from neftune.training.finetune import FinetuneSettings

VOCAB = 40


def tiny_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokens = special or {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


def tiny_llama(**overrides: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | overrides)))


def tiny_gpt2(dropout: float = 0.2) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_positions=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def tiny_documents(num: int = 20, *, seed: int = 0) -> list[Document]:
    """Documents of 6 to 14 tokens whose second half is trained on."""
    rng = random.Random(seed)
    documents = []
    for index in range(num):
        length = rng.randint(6, 14)
        ids = (1, *(rng.randrange(3, VOCAB) for _ in range(length - 2)), 2)
        documents.append(Document(str(index), ids, tuple(position >= length // 2 for position in range(length))))
    return documents


def tiny_settings(
    folder: Path,
    *,
    alpha: float = 0.0,
    seed: int = 0,
    probes: Mapping[str, Callable[[], float]] | None = None,
    **train: Any,
) -> FinetuneSettings:
    knobs = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 4, "evaluations": 2} | train
    return FinetuneSettings(
        train=TrainConfig(**knobs), noise=NoiseConfig(), alpha=alpha, seed=seed, folder=folder, probes=probes or {}
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_bits(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
