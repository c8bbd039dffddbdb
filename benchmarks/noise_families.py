"""Which of transformers' classes take the noise: every causal, masked and sequence-to-sequence one, tiny and random.

    python benchmarks/noise_families.py

Prints a line per class that is refused or cannot be built from these sizes, and the counts.
"""

import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

sys.path.insert(0, str(Path(__file__).parents[1]))

import neftune
from neftune.errors import NeftuneError
from neftune.noise.stacks import find_stacks
from tests.tiny_families import SMALL, VOCAB, make_batch, without_dropout

TASKS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM")
MOST_PARAMETERS, MOST_SECONDS = 3_000_000, 20
HALVES = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in (("layers", 1), ("ffn_dim", 64))}
HEADS = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "n_head", "n_heads", "num_heads"), 2)
WIDTHS = dict.fromkeys(("n_embd", "d_model", "dim", "emb_dim"), 32)
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
SIZES: dict[str, Any] = {
    **SMALL,
    **HALVES,
    **HEADS,
    **WIDTHS,
    **EXPERTS,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 16,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "n_positions": 64,
    "ffn_dim": 64,
    "d_ff": 64,
    "d_kv": 16,
    "hidden_dim": 64,
    "embedding_size": 16,
    "decoder_start_token_id": 2,
}


class UnbuiltError(Exception):
    """A class that cannot be built, or run without the noise, from these sizes."""


def build(name: str) -> torch.nn.Module:
    """A tiny model of a class, in training mode."""
    kind: Any = getattr(transformers, name)
    try:
        config = kind.config_class(**SIZES)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in kind(config).parameters())
        if size > MOST_PARAMETERS:
            raise UnbuiltError(f"{size} parameters")
        signal.alarm(MOST_SECONDS)
        model = without_dropout(kind(config).train())
        model(**make_batch())
    except Exception as error:
        raise UnbuiltError(f"{type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
    return model


def attempt(name: str) -> str:
    """What comes of a class: "exact", or why not."""
    try:
        model = build(name)
    except UnbuiltError as error:
        return f"unbuilt: {error}"
    try:
        with neftune.attach(model, 5.0) as handle:
            model(**make_batch()).loss.backward()
            realised = handle.realised()
    except NeftuneError as error:
        return f"refused: {error}"
    is_exact = realised.num_tokens == 13 * len(find_stacks(model)) and 4 < realised.alpha_mean < 6
    return "exact" if is_exact else f"WRONG: {realised}"


def stop(*_args: object) -> None:
    """End an attempt that takes too long."""
    raise TimeoutError(f"more than {MOST_SECONDS} s")


def main() -> None:
    """Try every class once."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    signal.signal(signal.SIGALRM, stop)
    counts: Counter[str] = Counter()
    tables = [getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values() for task in TASKS]
    names = [one for table in tables for entry in table for one in ([entry] if isinstance(entry, str) else entry[:1])]
    for name in dict.fromkeys(names):
        torch.manual_seed(0)
        outcome = attempt(name)
        counts[outcome.partition(":")[0]] += 1
        if outcome != "exact":
            print(f"{name:48} {' '.join(outcome.split())[:160]}")
    print(f"transformers {transformers.__version__}, vocabulary of {VOCAB}:", dict(counts))


if __name__ == "__main__":
    main()
