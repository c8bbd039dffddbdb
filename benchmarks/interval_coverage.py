"""How often do the intervals of effects cover the truth, at 3, 5 and 10 seeds?

Simulates studies with known effects, and prints JSON: for each size and each mix of variances, the coverage of nominal
95% intervals in percent, and their width relative to that of an interval that knew the variances. Providers: `ours`
(`paired_interval`), `bootstrap` (hierarchical percentile), `examples` (t over examples, seeds averaged), `seeds` (t
over seed means). Length-controlled win rates have no known variance: their width is in points.

    python benchmarks/interval_coverage.py > benchmarks/results/interval_coverage_<hardware>_<yyyymm>.json
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import scipy

from neftune.analysis.preferences import Contest
from neftune.analysis.statistics import (
    Component,
    FloatArray,
    interval_from,
    jackknife_cells,
    mean_components,
    paired_interval,
    percentile_bootstrap,
)

Ends = tuple[float, float]
NORMAL_95 = 1.959964

MIXES: Mapping[str, tuple[float, float, float]] = {
    "interaction only": (0.0, 0.0, 1.0),
    "examples only": (0.0, 1.0, 0.1),
    "examples and interaction": (0.0, 1.0, 1.0),
    "all three, seeds weak": (0.05, 1.0, 1.0),
    "all three, seeds as examples": (0.13, 1.0, 1.0),
    "seeds strong": (0.4, 1.0, 0.3),
    "seeds dominate": (1.0, 0.3, 0.3),
}
"""Standard deviations: of a seed's level, of an example's effect, of an example within a seed."""


def _normal(mix: tuple[float, float, float], shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    seeds, examples = shape
    parts = [(mix[0], (seeds, 1)), (mix[1], (1, examples)), (mix[2], shape)]
    total = np.zeros(shape)
    for sd, size in parts:
        total += sd * rng.standard_normal(size)
    return np.asarray(total, dtype=np.float64)


def _rare_counts(shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """Differences of rare counts, such as false facts: 0.1 against 0.3 an answer, in few answers."""
    prone = rng.gamma(0.3, 1 / 0.3, (1, shape[1])) * rng.gamma(20, 1 / 20, (shape[0], 1))
    return rng.poisson(0.3 * prone).astype(float) - rng.poisson(0.1 * prone) - 0.2


def _providers(rng: np.random.Generator, *, with_bootstrap: bool) -> Mapping[str, Callable[[FloatArray], Ends]]:
    def over(values: FloatArray) -> Ends:
        part = Component(float(values.var(ddof=1)) / values.size, values.size - 1)
        interval = interval_from(
            float(values.mean()), [part], confidence=0.95, counts=(1, values.size, 0), method="benchmark"
        )
        return interval.low, interval.high

    def ours(differences: FloatArray) -> Ends:
        interval = paired_interval(differences)
        return interval.low, interval.high

    chosen: dict[str, Callable[[FloatArray], Ends]] = {
        "ours": ours,
        "examples": lambda differences: over(differences.mean(axis=0)),
        "seeds": lambda differences: over(differences.mean(axis=1)),
    }
    if with_bootstrap:
        chosen["bootstrap"] = lambda differences: percentile_bootstrap(differences, rng=rng, num_draws=1000)
    return chosen


def _measure(
    draw: Callable[[], FloatArray], studies: int, rng: np.random.Generator, ideal: float | None
) -> dict[str, dict[str, float]]:
    found: dict[str, list[Ends]] = {}
    for study in range(studies):
        differences = draw()
        # The bootstrap is slow; a quarter of the studies places it within two points.
        for name, ends in _providers(rng, with_bootstrap=study % 4 == 0).items():
            found.setdefault(name, []).append(ends(differences))
    return {name: _summary(np.array(ends), truth=0.0, ideal=ideal) for name, ends in found.items()}


def _summary(ends: FloatArray, *, truth: float, ideal: float | None) -> dict[str, float]:
    covered = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    half = (ends[:, 1] - ends[:, 0]) / 2
    width = {"half_width": round(float(half.mean()), 3)}
    if ideal is not None:
        width["relative_width"] = round(float(half.mean()) / ideal, 2)
    return {"coverage": round(100 * float(covered.mean()), 1), **width, "studies": len(ends)}


def _contest(shape: tuple[int, int], rng: np.random.Generator) -> Contest:
    """Preferences that depend on extra length, the seed and the example; a fifth are draws."""
    seeds, examples = shape
    extra = np.asarray(25 + 20 * rng.standard_normal((1, examples)) + 20 * rng.standard_normal(shape), dtype=np.float64)
    level = 0.2 + 0.15 * rng.standard_normal((seeds, 1)) + 0.7 * rng.standard_normal((1, examples))
    chance = 1 / (1 + np.exp(-(level + 0.02 * extra)))
    preferences = np.asarray(1.0 + (rng.random(shape) < chance), dtype=np.float64)
    preferences[rng.random(shape) < 0.2] = 1.5
    return Contest(preferences, extra)


def _length_controlled(shape: tuple[int, int], studies: int, rng: np.random.Generator) -> dict[str, object]:
    large = _contest((400, 2000), rng)
    truth = float(large.length_controlled(np.ones((1, 400, 2000)))[0])
    ends: list[Ends] = []
    for _ in range(studies):
        contest = _contest(shape, rng)
        full, cells = jackknife_cells(contest.length_controlled, num_seeds=shape[0], num_examples=shape[1])
        parts, method = mean_components(cells)
        interval = interval_from(full, parts, confidence=0.95, counts=(*shape, 0), method=method)
        ends.append((interval.low, interval.high))
    row: dict[str, object] = {"seeds": shape[0], "examples": shape[1], "truth": round(truth, 2)}
    row.update(_summary(np.array(ends), truth=truth, ideal=None))
    return row


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description="Coverage of the intervals of effects.")
    parser.add_argument("--studies", type=int, default=4000, help="simulated studies a cell")
    parser.add_argument("--examples", type=int, default=60, help="examples a study")
    studies, examples = (options := parser.parse_args()).studies, options.examples
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    rows: list[dict[str, object]] = []
    controlled: list[dict[str, object]] = []
    for seeds in (3, 5, 10):
        shape = (seeds, examples)
        for name, mix in MIXES.items():
            error = np.sqrt(mix[0] ** 2 / seeds + mix[1] ** 2 / examples + mix[2] ** 2 / (seeds * examples))
            measured = _measure(lambda: _normal(mix, shape, rng), studies, rng, NORMAL_95 * float(error))  # noqa: B023
            rows.append({"seeds": seeds, "examples": examples, "mix": name, "sd": mix, "providers": measured})
        measured = _measure(lambda: _rare_counts(shape, rng), studies, rng, None)  # noqa: B023
        rows.append({"seeds": seeds, "examples": examples, "mix": "rare counts", "providers": measured})
        controlled.append(_length_controlled(shape, max(200, studies // 8), rng))
        print(f"{seeds} seeds done after {time.perf_counter() - began:.0f} s", file=sys.stderr)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    settings = {"studies": studies, "examples": examples, "confidence": 0.95, "seed": 0}
    result = {"means": rows, "length_controlled": controlled, "settings": settings, "versions": versions}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
