"""docs/exactness.md from the stored result of `noise_exactness`.

python -m benchmarks.exactness_table
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "exactness.md"

HEAD = """\
# Exactness, row by row

transformers' hook (`neftune_noise_alpha`) and this package side by side, in every situation in which hooks are
known to go wrong. A number is the alpha that documents really got over the nominal one, as [an audit](audit.md)
reads it, unless its row says otherwise: 1.000 is the paper's noise. "Expected" is what the hook's source lets
expect.

| situation | case | expected of the hook | transformers' hook | neftune |
|---|---|---|---|---|
"""
TAIL = """
Made by `python -m benchmarks.noise_exactness` (alpha {alpha:g}, d = {width} where the row names none,
{num_documents:,} of Alpaca's examples at four characters a token, {num_passes} passes for means over small batches)
and stored in `{stored}`; {hardware}; {versions}.

- The families are tiny random models of each: the noise depends on the lengths, d and the embedding module, not on
  size.
- "Other implementations" are measured by their formula, restated in one line; their first number is theirs.
- `torch.compile` runs with `fullgraph=True, dynamic=True` on three lengths, through the backend `aot_eager`.
- After an exception inside `train()` the hook stays on the embedding: the next training runs two, and when that
  ends the one left behind fails at the model's next training forward.
- TRL 1.16 flattens packed rows into one: with `packing=True` the hook's L is the micro-batch times the packing
  length. The rows above have one packed row a batch.
"""


def stored_result() -> Path:
    """The newest stored result."""
    return max((ROOT / "benchmarks" / "results").glob("noise_exactness_*.json"), key=lambda path: path.stem[-6:])


def render(record: Mapping[str, Any], *, stored: str) -> str:
    """The page."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    tail = TAIL.format(**record["settings"], stored=stored, hardware=record["hardware"], versions=versions)
    return HEAD + "\n".join(_rows(record["cells"])) + "\n" + tail


def _rows(cells: list[dict[str, Any]]) -> Iterator[str]:
    group = None
    for cell in cells:
        shown = cell["group"] if cell["group"] != group else ""
        group = cell["group"]
        expected = cell["stated"] if isinstance(cell["stated"], str | None) else f"{cell['stated']:.3g}"
        values = (expected or "", _said(cell["theirs"]), f"**{_said(cell['ours'])}**")
        yield f"| {shown} | {cell['name']} | {' | '.join(values)} |"


def _said(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "0" if value == 0 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def main() -> None:
    """Write the page."""
    path = stored_result()
    PAGE.write_text(render(json.loads(path.read_text()), stored=path.relative_to(ROOT).as_posix()))


if __name__ == "__main__":
    main()
