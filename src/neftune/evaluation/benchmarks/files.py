"""A model's benchmarks as one JSON file with every example's scores, written and read."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neftune.errors import DataError
from neftune.evaluation.benchmarks.results import Benchmark
from neftune.records import Scores

FORMAT = "neftune benchmarks 1"


def as_data(benchmarks: Mapping[str, Benchmark], about: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data for JSON.

    Args:
        benchmarks: By name.
        about: Model, settings and versions, for the reader.
    """
    return {
        "format": FORMAT,
        "about": dict(about),
        "benchmarks": {name: asdict(one) for name, one in benchmarks.items()},
    }


def read_benchmarks(path: Path) -> dict[str, Benchmark]:
    """The benchmarks in a result file.

    Raises:
        DataError: There is no such file, or it is not one of results.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}")
        return {name: _benchmark(one) for name, one in found["benchmarks"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"a benchmark result must be a file that `neftune benchmark` wrote, got {path}: {error}. Name another."
        ) from error


def _benchmark(fields: Mapping[str, Any]) -> Benchmark:
    scores = fields["scores"]
    values = {
        name: tuple(math.nan if value is None else float(value) for value in values)
        for name, values in scores["values"].items()
    }
    ids = tuple(scores["example_ids"])
    if any(len(one) != len(ids) for one in values.values()):
        raise ValueError(f"{fields['name']} has not one number for every example")
    return Benchmark(**{**fields, "scores": Scores(ids, values), "notes": tuple(fields["notes"])})
