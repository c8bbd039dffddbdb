"""What does the noise cost? A training step of a small Llama on the CPU: none | transformers' hook | ours, interleaved.

    python benchmarks/noise_overhead.py [rows tokens width]

Prints milliseconds per step (p20 / p50 / p80) and each provider's cost over none. The batch has the lengths of
instruction data: half of its positions are padding.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.neftune import activate_neftune, deactivate_neftune

import neftune

NUM_ROUNDS = 60


class TransformersNoise(AbstractContextManager[None]):
    """transformers' own hook, for as long as the block runs."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.handle = activate_neftune(self.model, 5.0)

    def __exit__(self, *exception: object) -> None:
        deactivate_neftune(self.model, self.handle)


def make_model(width: int) -> LlamaForCausalLM:
    """Two layers, four heads, 280 tokens: the microworld's base."""
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=width,
        intermediate_size=int(width * 2.7),
        num_hidden_layers=2,
        num_attention_heads=4,
        use_cache=False,
    )
    return LlamaForCausalLM(config).train()


def make_batch(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    """Right-padded rows whose lengths are spread evenly from a few tokens to all."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(max(2, tokens // 20), tokens, rows).long()
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    ids = torch.randint(3, 280, (rows, tokens), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def time_step(model: LlamaForCausalLM, optimiser: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> float:
    """Milliseconds of one forward, backward and update."""
    start = time.perf_counter()
    model(**batch).loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return 1000 * (time.perf_counter() - start)


def main(rows: int = 16, tokens: int = 22, width: int = 128) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    model, batch = make_model(width), make_batch(rows, tokens)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    providers: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "none": nullcontext,
        "transformers": lambda: TransformersNoise(model),
        "neftune": lambda: neftune.attach(model, 5.0),
    }
    times: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(NUM_ROUNDS):
        for name, provider in providers.items():
            with provider():
                time_step(model, optimiser, batch)
                times[name].append(min(time_step(model, optimiser, batch) for _ in range(3)))
    for name, values in times.items():
        low, middle, high = (statistics.quantiles(values, n=10)[i] for i in (1, 4, 7))
        extra = middle - statistics.median(times["none"])
        print(f"{name:>13}: {low:7.2f} {middle:7.2f} {high:7.2f} ms a step, {extra:+.2f} ms over none")
    setting = {"rows": rows, "tokens": tokens, "width": width, "threads": 1, "real_share": 0.5}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "cpu": platform.machine()}
    print(json.dumps({**setting, **versions}))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
