"""What does the noise cost? none | transformers' hook | ours, interleaved, on a CPU or, where there is one, a GPU.

    python -m benchmarks.noise_overhead --out benchmarks/results/noise_overhead_<hardware>_<yyyymm>.json

The noise's time is that of an embedding's call with it less that without it, layout and meter included, at the least,
p20, p50 and p80 of all rounds. Its share is that of the model's training step (forward, backward and AdamW). A GPU's
noise is also compared with a copy of as many bytes on the device, and with what it allocates.

Half-padded batches have lengths spread evenly over the row; transformers' hook noises their padding as well.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from benchmarks.pipelines import VOCABULARY, EmbeddingAlone, TransformersNoise
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.neftune import neftune_post_forward_hook

import neftune
from neftune.noise.add import add_
from neftune.noise.documents import read_layout
from neftune.noise.settings import NoiseSettings
from neftune.noise.tokens import token_keys, token_noise

PROVIDERS: Mapping[str, Callable[[nn.Module], contextlib.AbstractContextManager[Any]]] = {
    "none": lambda model: contextlib.nullcontext(),
    "transformers": TransformersNoise,
    "neftune": lambda model: neftune.attach(model, 5.0),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A batch and the model it belongs to.

    Attributes:
        rows, tokens, width: The embeddings' shape.
        model: Which model the step is of.
        llama: Its size, as transformers' LlamaConfig has it.
        dtype: Of weights and embeddings.
    """

    rows: int
    tokens: int
    width: int
    model: str
    llama: Mapping[str, int]
    dtype: str = "float32"


def llama(layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int) -> dict[str, int]:
    """A size, as transformers' LlamaConfig has it."""
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
    }


ON_CPU = (
    Case(16, 512, 64, "stories260k", llama(5, 8, 4, 172, 512)),
    Case(8, 256, 288, "stories15m", llama(6, 6, 6, 768, 32000)),
    Case(4, 1024, 1024, "4 layers of width 1024", llama(4, 16, 8, 2816, 4096)),
)
"""The last is far smaller than models of its width are: the more layers, the smaller the noise's share."""
ON_GPU = (
    Case(4, 2048, 2048, "llama-3.2-1b", llama(16, 32, 8, 8192, 128256), "bfloat16"),
    Case(8, 2048, 4096, "the noise alone", {}, "bfloat16"),
)


def make_batch(case: Case, *, half_padded: bool, vocabulary: int, device: str) -> dict[str, Tensor]:
    """Full rows, or lengths from a few tokens to all, half of the positions on average."""
    shortest = max(2, case.tokens // 20) if half_padded else case.tokens
    lengths = torch.linspace(shortest, case.tokens - shortest if half_padded else case.tokens, case.rows).long()
    mask = (torch.arange(case.tokens) < lengths[:, None]).long()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, min(vocabulary, VOCABULARY), mask.shape, generator=generator) * mask
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def timed(function: Callable[[], object], device: str) -> float:
    """Milliseconds of a call, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of every function: one call of each a round, in rotating order, after two rounds for warmth."""
    names, times = list(functions), {name: [] for name in functions}
    for number in range(-2, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            elapsed = timed(functions[name], device)
            if number >= 0:
                times[name].append(elapsed)
    return times


def quantiles(values: list[float]) -> dict[str, float]:
    """The least, p20, p50 and p80."""
    cuts = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
    return {"min": min(values), "p20": cuts[1], "p50": cuts[4], "p80": cuts[7]}


def call_times(case: Case, *, half_padded: bool, rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of an embedding's call under each provider."""
    dtype = getattr(torch, case.dtype)
    batch = make_batch(case, half_padded=half_padded, vocabulary=VOCABULARY, device=device)
    functions: dict[str, Callable[[], object]] = {}
    with contextlib.ExitStack() as attached:
        for name, provider in PROVIDERS.items():
            model = EmbeddingAlone(case.width, dtype=dtype).to(device).train()
            attached.enter_context(provider(model))
            functions[name] = lambda model=model: model(**batch)
        return interleaved(functions, rounds, device)


def step_times(case: Case, *, half_padded: bool, rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of a training step under each provider."""
    config = LlamaConfig(hidden_size=case.width, tie_word_embeddings=True, use_cache=False, **case.llama)
    model = LlamaForCausalLM(config).to(device, getattr(torch, case.dtype)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)
    batch = make_batch(case, half_padded=half_padded, vocabulary=config.vocab_size, device=device)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

    def step() -> None:
        model(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    times: dict[str, list[float]] = {name: [] for name in PROVIDERS}
    step()
    for _ in range(rounds):
        for name, provider in PROVIDERS.items():
            with provider(model):
                times[name].append(timed(step, device))
    return times


def device_facts(case: Case, rounds: int) -> dict[str, float]:
    """The noise on full rows, as a fraction of the bandwidth of a copy on this GPU, and the bytes that it allocates."""
    embeddings = torch.randn(case.rows * case.tokens, case.width, device="cuda", dtype=getattr(torch, case.dtype))
    layout = read_layout((case.rows, case.tokens), embeddings.device)
    keys = token_keys(layout, input_ids=None, keys=None)
    noise = token_noise(layout, keys, NoiseSettings(5.0), alpha=5.0, width=case.width, draw=1)
    target = torch.empty_like(embeddings)
    hooked, batch = SimpleNamespace(training=True, neftune_noise_alpha=5.0), embeddings.view(case.rows, -1, case.width)
    functions = {
        "copy": lambda: target.copy_(embeddings),
        "noise": lambda: add_(embeddings, noise),
        "theirs": lambda: neftune_post_forward_hook(hooked, None, batch),
    }
    times = {name: gpu_times(function, rounds) for name, function in functions.items()}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    add_(embeddings, noise)
    copy, kernel, theirs = (statistics.median(times[name]) for name in functions)
    num_bytes = 2 * embeddings.numel() * embeddings.element_size()
    return {
        "copy_gb_per_s": num_bytes / copy / 1e6,
        "noise_gb_per_s": num_bytes / kernel / 1e6,
        "share_of_copy_bandwidth": copy / kernel,
        "times_faster_than_transformers": theirs / kernel,
        "bytes_allocated": torch.cuda.max_memory_allocated() - before,
        "bytes_of_embeddings": num_bytes // 2,
    }


def gpu_times(function: Callable[[], object], rounds: int) -> list[float]:
    """Milliseconds on the device itself: it is kept busy until all of the call is in its queue."""
    times: list[float] = []
    for number in range(-2, rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(4_000_000)
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        if number >= 0:
            times.append(start.elapsed_time(end))
    return times


def measure(case: Case, *, half_padded: bool, rounds: int, step_rounds: int, device: str) -> dict[str, Any]:
    """All of one case."""
    calls = call_times(case, half_padded=half_padded, rounds=rounds, device=device)
    result: dict[str, Any] = asdict(case) | {"half_padded": half_padded, "rounds": rounds, "step_rounds": step_rounds}
    result["call_ms"] = {name: quantiles(values) for name, values in calls.items()}
    bare = result["call_ms"]["none"]
    result["noise_ms"] = {
        name: {cut: result["call_ms"][name][cut] - bare[cut] for cut in bare} for name in PROVIDERS if name != "none"
    }
    ours, theirs = (result["noise_ms"][name]["p50"] for name in ("neftune", "transformers"))
    result["ours_over_theirs"] = ours / theirs
    if case.llama and step_rounds:
        steps = step_times(case, half_padded=half_padded, rounds=step_rounds, device=device)
        result["step_ms"] = {name: quantiles(values) for name, values in steps.items()}
        result["share_of_step"] = ours / result["step_ms"]["none"]["p50"]
    if device == "cuda" and not half_padded:
        result["device"] = device_facts(case, rounds)
    return result


def processor() -> str:
    """The CPU's name, as Linux tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure all, print a line for each case and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="of the noise alone")
    parser.add_argument("--step-rounds", type=int, default=5, help="of training steps; 0 for none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--widths", type=int, nargs="*", help="only the cases of these widths")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    counts = {"rounds": options.rounds, "step_rounds": options.step_rounds}
    found: list[dict[str, Any]] = []
    for case in ON_GPU if device == "cuda" else ON_CPU:
        for half_padded in (False, True):
            if options.widths and case.width not in options.widths:
                continue
            found.append(measure(case, half_padded=half_padded, device=device, **counts))
            print(describe(found[-1]), flush=True)
    packages = ("torch", "transformers", "neftune", "numpy", "numba", "triton")
    record = {
        "cases": found,
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "versions": {name: installed(name) for name in packages},
        "python": platform.python_version(),
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def installed(package: str) -> str | None:
    """Its version; None where it is not installed."""
    try:
        return version(package)
    except ImportError:
        return None


def describe(result: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    times = " ".join(
        f"{name} {'/'.join(f'{value:.2f}' for value in cuts.values())} ms" for name, cuts in result["noise_ms"].items()
    )
    shape = f"{result['rows']}x{result['tokens']}x{result['width']} {'half' if result['half_padded'] else 'full'}"
    line = f"{shape:19} {times} ours/theirs {result['ours_over_theirs']:.2f}"
    if "step_ms" in result:
        line += f" step {result['step_ms']['none']['p50']:.0f} ms share {result['share_of_step']:.2%}"
    return line + (f" {result['device']}" if "device" in result else "")


if __name__ == "__main__":
    main()
