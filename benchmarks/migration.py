"""What is an alpha that was tuned under a padded or packed hook with exact noise? Multiply by the mean realised ratio.

python -m benchmarks.migration --out benchmarks/results/migration_<hardware>_<yyyymm>.json \
        --data Alpaca=FILE:512 --data Evol-Instruct=FILE:2048      (name = file : longest document in tokens)
python -m benchmarks.migration --page      writes docs/migration.md from the stored result
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from benchmarks.pipelines import EmbeddingAlone, document_lengths, measure, packed, padded, padding_free, shuffled

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "migration.md"
WIDTH = 32
NUM_DOCUMENTS = 12_000
ROWS = (1, 2, 4, 8, 16, 32, 64)
SIZES = (1024, 2048, 4096, 8192, 16384)

HEAD = """\
# Migrating an alpha

With exact noise alpha means what the paper says, so an alpha that was tuned under a hook that reads L from the
tensor's shape (transformers' `neftune_noise_alpha`, and most others) must be translated: the documents really got
less. Multiply it by the number of your pipeline; alpha = 5 in padded batches of 16 on Alpaca was, on average, alpha
= {example:.1f}.

"""
TAIL = """
The number is the mean over documents of realised over nominal alpha, as [an audit](audit.md) reads it, in random
batches without sorting by length. In brackets: the shortest tenth and the longest tenth of the documents.

- For your own model and data: `neftune audit --model.path MODEL --data.source FILE --layout padded --batch-size 16`
  ends with "alpha=5 under this pipeline is about alpha=... with neftune"; in your own script,
  `neftune.audit(trainer).result().equivalent_alpha`.
- No single alpha gives back what the hook did: it gave long documents more than short ones, and changed with the
  batch size. The translated alpha is where to look first, not a proof that it is best.
- Rows of one document are exact already: the number is 1 where nothing is padded.
- "Tokens in a packed forward pass" counts all rows: TRL flattens packed rows, so `packing=True` with
  `max_length=2048` and 4 rows a micro-batch is 8,192.
- Encoder-decoders got nothing from the hook: there is no alpha to translate. Gemma from transformers 5 on got
  1/sqrt(d) of these.

Lengths at four characters a token in Alpaca's template: {data}. Made by `python -m benchmarks.migration`, stored in
`{stored}`; {hardware}; {versions}.
"""


def ratios(lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The mean ratio of transformers' hook in each layout, and those of the shortest and the longest tenth."""
    for rows in ROWS:
        yield _ratio("padded", rows, padded(lengths, rows))
    for documents in ROWS:
        yield _ratio("padding-free", documents, padding_free(lengths, documents))
    for size in SIZES:
        yield _ratio("packed", size, packed(lengths, size))


def _ratio(layout: str, size: int, batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, Any]:
    found = measure("transformers", batches, model=EmbeddingAlone(WIDTH)).find()
    ends = {"shortest": found.groups[0].mean, "longest": found.groups[-1].mean}
    return {"layout": layout, "size": size, "mean": found.mean, **ends}


def render(record: Mapping[str, Any], *, stored: str) -> str:
    """The page."""
    names = list(record["data"])
    first = {(row["layout"], row["size"]): row["mean"] for row in record["data"][names[0]]["rows"]}
    rows = [f"| pipeline | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for i, row in enumerate(record["data"][names[0]]["rows"]):
        cells = (_cell(record["data"][name]["rows"][i]) for name in names)
        rows.append(f"| {_title(row)} | {' | '.join(cells)} |")
    data = "; ".join(f"{name} {_described(record['data'][name])}" for name in names)
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    tail = TAIL.format(data=data, stored=stored, hardware=record["hardware"], versions=versions)
    return HEAD.format(example=5 * first["padded", 16]) + "\n".join(rows) + "\n" + tail


def _title(row: Mapping[str, Any]) -> str:
    if row["layout"] == "packed":
        return f"packed, {row['size']:,} tokens in a packed forward pass"
    number = f"{row['size']} documents" if row["size"] > 1 else "1 document"
    return f"{row['layout']}, {number} a micro-batch"


def _cell(row: Mapping[str, Any]) -> str:
    return f"**{row['mean']:.2f}** ({row['shortest']:.2f} to {row['longest']:.2f})"


def _described(data: Mapping[str, Any]) -> str:
    size = f"{data['num_documents']:,} documents of {data['mean_length']:.0f} tokens on average"
    return f"({size}, cut at {data['context']:,})"


def _measured(path: Path, context: int) -> dict[str, Any]:
    lengths = shuffled(document_lengths(path, context), NUM_DOCUMENTS)
    counts = {"num_documents": len(lengths), "mean_length": statistics.fmean(lengths), "context": context}
    return {**counts, "rows": list(ratios(lengths))}


def stored_result() -> Path:
    """The newest stored result."""
    return max((ROOT / "benchmarks" / "results").glob("migration_*.json"), key=lambda path: path.stem[-6:])


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FILE:TOKENS")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.page:
        path = stored_result()
        PAGE.write_text(render(json.loads(path.read_text()), stored=path.relative_to(ROOT).as_posix()))
        return
    torch.manual_seed(0)
    data = {}
    for one in options.data:
        name, _, rest = one.partition("=")
        path, _, context = rest.rpartition(":")
        data[name] = _measured(Path(path), int(context))
        print(name, [round(row["mean"], 3) for row in data[name]["rows"]], file=sys.stderr)
    names = ("torch", "transformers", "trl", "neftune")
    record = {"data": data, "versions": {name: version(name) for name in names}}
    record["hardware"] = f"{os.cpu_count()} cores, {platform.machine()}, CPU"
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
