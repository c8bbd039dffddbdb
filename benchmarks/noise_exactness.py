"""Is the noise what the paper says? Row by row of docs/method.md, transformers' hook and ours side by side.

    python -m benchmarks.noise_exactness --alpaca FILE --out benchmarks/results/noise_exactness_<hardware>_<yyyymm>.json
    python -m benchmarks.exactness_table       # writes docs/exactness.md from the stored result

Every number is realised over nominal alpha (5) as `neftune.audit` reads it, unless its row says otherwise.
"""

import argparse
import json
import os
import platform
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
from benchmarks import exactness_cases as cases
from benchmarks.pipelines import EmbeddingAlone, alpaca_lengths, measure, packed, padded, padding_free, shuffled

from neftune.noise.findings import Finding
from tests.tiny_families import make

Found = TypeVar("Found")
WIDTH = 128
NUM_DOCUMENTS = 8_000
NUM_PASSES = 200


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison.

    Attributes:
        group: The situation.
        name: The case in it.
        theirs, ours: A ratio, or what happened instead of one.
        right: What it must be.
        stated: What docs/method.md's source says of theirs; None where it gives no number.
        of: Whose the first number is.
    """

    group: str
    name: str
    theirs: float | str
    ours: float | str
    right: float | str = 1.0
    stated: float | str | None = None
    of: str = "transformers"


PROVIDERS = ("transformers", "neftune")


def _each(found: Mapping[str, Found], read: Callable[[Found], float]) -> tuple[float, float]:
    """The same number of what was found with transformers' hook, and with ours."""
    return read(found["transformers"]), read(found["neftune"])


def padded_rows() -> Iterator[Cell]:
    """Rows of 20, 40, 100 and 400 tokens in one batch, and its padding."""
    group, lengths = "padded with 400 tokens", [20, 40, 100, 400]
    (batch,) = padded(lengths, 4)
    found = {
        provider: [measure(provider, iter([batch]), model=EmbeddingAlone(WIDTH)).find() for _ in range(NUM_PASSES)]
        for provider in PROVIDERS
    }
    for i, length in enumerate(lengths):
        ratios = _each(found, partial(_group_mean, index=i))
        yield Cell(group, f"a row of {length}", *ratios, stated=(length / 400) ** 0.5)
    rms = _each(found, lambda ones: max(one.padding_rms for one in ones))
    yield Cell(group, "RMS of the noise on padding", *rms, right=0.0, stated="not 0")


def _group_mean(found: Sequence[Finding], *, index: int) -> float:
    return statistics.fmean(one.groups[index].mean for one in found)


def alpaca(path: Path) -> Iterator[Cell]:
    """Alpaca's lengths in the usual layouts."""
    lengths = shuffled(alpaca_lengths(path), NUM_DOCUMENTS)
    for rows, mean, fifth in ((4, 0.80, 0.51), (16, 0.67, 0.43), (32, 0.63, 0.40)):
        found = {one: measure(one, padded(lengths, rows), model=EmbeddingAlone(WIDTH)).find() for one in PROVIDERS}
        group = f"Alpaca padded, micro-batch {rows}"
        yield Cell(group, "mean", *_each(found, _mean), stated=mean)
        fifths = _each(found, lambda one: one.fifth_percentile)
        yield Cell(group, "5% of documents get at most", *fifths, stated=fifth)
    for size, mean in ((2048, 0.24), (8192, 0.12)):
        found = {one: measure(one, packed(lengths, size), model=EmbeddingAlone(WIDTH)).find() for one in PROVIDERS}
        yield Cell("Alpaca packed", f"rows of {size}, mean", *_each(found, _mean), stated=mean)
    for number in (4, 16, 64):
        found = {
            one: measure(one, padding_free(lengths, number), model=EmbeddingAlone(WIDTH)).find() for one in PROVIDERS
        }
        yield Cell("Alpaca padding-free", f"{number} documents, mean", *_each(found, _mean))


def _mean(found: Finding) -> float:
    return found.mean


def families() -> Iterator[Cell]:
    """Encoder-decoders, and embeddings that scale inside."""
    for family in ("t5", "mt5", "bart", "mbart", "pegasus", "m2m100", "blenderbot"):
        found = {provider: cases.family(provider, make(family), NUM_PASSES) for provider in PROVIDERS}
        for stack in ("encoder", "decoder"):
            ratios = _each({one: result.find("training", stack) for one, result in found.items()}, _mean)
            yield Cell("encoder-decoders", f"{family}, {stack}", *ratios, stated=0.0)
    for family in ("gemma", "gemma2", "gemma3"):
        width = make(family).get_input_embeddings().embedding_dim
        found = {provider: cases.family(provider, make(family), NUM_PASSES).find() for provider in PROVIDERS}
        yield Cell(
            "embedding scaled inside its module", f"{family}, d = {width}", *_each(found, _mean), stated=width**-0.5
        )


def phases() -> Iterator[Cell]:
    """Passes that do not train, in training mode."""
    ratios = cases.both(cases.reference_pass)
    yield Cell("training mode without gradients", "DPO's reference, an adapter", *ratios, right=0.0, stated="noised")
    ratios = cases.both(cases.rollouts)
    yield Cell("training mode without gradients", "GRPO's completions, mean", *ratios, right=0.0, stated="noised")
    ratios = cases.both(cases.cached_generation)
    name = f"generation with a cache, token {cases.GENERATED}"
    yield Cell("training mode without gradients", name, *ratios, right=0.0, stated=cases.GENERATED**0.5)


def misuse() -> Iterator[Cell]:
    """What goes wrong in silence elsewhere."""
    group = "misuse"
    yield Cell(group, "inputs_embeds instead of ids", *cases.both(cases.given_embeddings), "refused", 0.0)
    yield Cell(group, "attached twice", *cases.both(cases.attached_twice), "refused", 2**0.5)
    yield Cell(group, "train() after an exception in train()", *cases.both(cases.after_exception), 1.0, 2**0.5)
    theirs, ours = cases.both(cases.forward_afterwards)
    yield Cell(group, "a training forward after that", theirs, ours, 0.0, "AttributeError")
    yield Cell(group, "torch.compile(fullgraph, dynamic)", *cases.both(cases.compiled), 1.0, "fails")


def others() -> Iterator[Cell]:
    """Other implementations, their formula restated in a line each, against ours."""
    for name, of, stated in (
        ("L d beyond 65504 in fp16", "the authors' script", 0.0),
        ("one row, d = 4096", "instructlab", 64.0),
        ("8 rows, d = 4096", "PaddleNLP", 22.6),
        ("8 rows, d = 4096", "dolomite-engine", 8**-0.5),
    ):
        theirs, ours = cases.restated(of), cases.restated_ours(of)
        yield Cell("other implementations", f"{name} ({of})", theirs, ours, stated=stated, of=of)


def ranks() -> Iterator[Cell]:
    """Two processes (gloo): data-parallel with batches of one shape; context-parallel with half of every row each."""
    theirs, ours = cases.correlations()
    yield Cell("two data-parallel ranks", "correlation of their noise", theirs, ours, right=0.0, stated=1.0)
    theirs, ours = cases.parts_of_rows()
    yield Cell("two context-parallel ranks", "a row of 96, half on each", theirs, ours, stated=2**0.5)


def main() -> None:
    """Measure all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpaca", type=Path, required=True, help="Alpaca's 52,002 rows, .jsonl or .jsonl.gz")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    found: list[Cell] = []
    for part in (padded_rows, lambda: alpaca(options.alpaca), families, phases, misuse, others, ranks):
        for cell in part():
            print(f"{cell.group:34} {cell.name:42} {cell.theirs!s:>24} {cell.ours!s:>24}", flush=True)
            found.append(cell)
    settings = {"alpha": 5.0, "width": WIDTH, "num_documents": NUM_DOCUMENTS, "num_passes": NUM_PASSES}
    names = ("torch", "transformers", "trl", "peft", "neftune", "numpy")
    record = {
        "cells": [asdict(cell) for cell in found],
        "settings": settings,
        "versions": {name: version(name) for name in names},
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, CPU",
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
