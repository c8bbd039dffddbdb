"""Do intervals of factorials and bands of dose-responses hold as often as they say?

Simulates the scores of arms that were never trained:

    score = arm + run[arm, seed] + example x arm + example x arm x seed

and lets the package make contrasts, the band and the set of doses that may be best. Prints JSON:

    factorial   coverage of main effects, two-way and three-way interactions of a 2 x 2 x 2, each alone; and how often
                any of its seven contrasts is called clear by Holm where none is there
    band        how often all doses' truths lie within the band, and within the intervals of each dose alone
    best        how often the truly best dose is among those that may be best, and how many of the doses those are

    python benchmarks/design_coverage.py > benchmarks/results/design_coverage_<hardware>_<yyyymm>.json
"""

import argparse
import json
import platform
import sys
import time

import numpy as np
import scipy

from neftune.analysis.designs import Design, Factor, contrasts
from neftune.analysis.differences import BlockDifferences
from neftune.analysis.dose_response import band_ends, best_arms
from neftune.analysis.multiplicity import holm
from neftune.analysis.statistics import FloatArray

EXAMPLES = 60
MIXES = {
    "seeds weak": (0.01, 0.1, 0.3),
    "seeds as examples": (0.02, 0.1, 0.3),
    "seeds dominate": (0.3, 0.1, 0.1),
}
"""Standard deviations of an arm: of a run, of an example, of an example in a run."""

AXES = ("noise.alpha", "train.weight_decay", "model.lora.dropout")
CUBE = Design(
    tuple(Factor(knob, (0.0, 1.0)) for knob in AXES),
    {(a, b, c): f"{a} {b} {c}" for a in ("0.0", "1.0") for b in ("0.0", "1.0") for c in ("0.0", "1.0")},
)
CURVE = (0.0, -0.01, -0.03, -0.06, -0.08, -0.05, 0.02, 0.2)
"""True effects of a baseline and seven doses on the loss; the fifth is the best."""


def simulate(truth: FloatArray, mix: tuple[float, float, float], seeds: int, rng: np.random.Generator) -> FloatArray:
    """(C, S, E) differences from the first arm, whose luck all others share."""
    arms, (run, example, rest) = len(truth), mix
    scores = truth[:, None, None] + run * rng.standard_normal((arms, seeds, 1))
    scores = scores + example * rng.standard_normal((arms, 1, EXAMPLES))
    scores = scores + rest * rng.standard_normal((arms, seeds, EXAMPLES))
    return scores - scores[:1]


def table_of(differences: FloatArray, arms: tuple[str, ...]) -> BlockDifferences:
    """Simulated differences as the analysis gets them."""
    means = differences.mean(axis=(1, 2))
    return BlockDifferences("", "test", "loss", arms, differences, means, 1.0, tuple(range(differences.shape[1])))


def factorial(mix: tuple[float, float, float], seeds: int, studies: int, rng: np.random.Generator) -> dict[str, float]:
    """Percent of intervals that hold, by order; percent of studies without effects in which Holm finds one."""
    arms = tuple(CUBE.arms.values())
    found = list(contrasts(CUBE, CUBE.arms))
    weights = np.array([[one.weights.get(arm, 0.0) for arm in arms] for one in found])
    order = np.array([len(one.factors) for one in found])
    truth = rng.normal(0, 0.1, len(arms))
    held, false = np.zeros(len(found)), 0
    for _ in range(studies):
        table = table_of(simulate(truth, mix, seeds, rng), arms)
        for place, row in enumerate(weights):
            interval = table.contrast(row, confidence=0.95)
            held[place] += interval.low <= row @ truth <= interval.high
        null = table_of(table.values - (truth - truth[0])[:, None, None], arms)
        p_values = {str(i): null.contrast(row, confidence=0.95).p_value for i, row in enumerate(weights)}
        false += min(holm(p_values).values()) < 0.05
    rates = {f"order_{n}": round(100 * float(held[order == n].mean()) / studies, 2) for n in (1, 2, 3)}
    return {**rates, "any_false": round(100 * false / studies, 2), "studies": studies}


def doses(mix: tuple[float, float, float], seeds: int, studies: int, rng: np.random.Generator) -> dict[str, float]:
    """Percent of studies in which the band holds, and the truly best dose is kept; mean number kept."""
    truth = np.array(CURVE)
    arms = tuple(map(str, range(len(truth))))
    band = alone = kept = size = 0
    for _ in range(studies):
        table = table_of(simulate(truth, mix, seeds, rng), arms)
        inside = np.zeros((2, len(truth)), dtype=bool)
        inside[:, 0] = True
        for place in range(1, len(truth)):
            weights = np.zeros(len(truth))
            weights[place] = 1.0
            interval = table.contrast(weights, confidence=0.95)
            low, high = band_ends(interval, confidence=0.95, num_doses=len(truth) - 1)
            inside[:, place] = low <= truth[place] <= high, interval.low <= truth[place] <= interval.high
        band, alone = band + inside[0].all(), alone + inside[1].all()
        _, best = best_arms(table, confidence=0.95)
        kept, size = kept + (int(truth.argmin()) in best), size + len(best)
    return {
        "band": round(100 * float(band) / studies, 2),
        "each_alone": round(100 * float(alone) / studies, 2),
        "best_kept": round(100 * kept / studies, 2),
        "mean_kept": round(size / studies, 2),
        "of": len(truth),
        "studies": studies,
    }


def main() -> None:
    """Print the tables as JSON."""
    parser = argparse.ArgumentParser(description="Coverage of factorial contrasts and dose-response bands.")
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a cell")
    studies = parser.parse_args().studies
    began, rng = time.perf_counter(), np.random.default_rng(0)
    tables: dict[str, list[dict[str, object]]] = {"factorial": [], "doses": []}
    for seeds in (3, 5, 10):
        for name, mix in MIXES.items():
            about = {"mix": name, "seeds": seeds}
            tables["factorial"].append(about | factorial(mix, seeds, studies, rng))
            tables["doses"].append(about | doses(mix, seeds, studies, rng))
            print(f"{seeds} seeds, {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    settings = {"examples": EXAMPLES, "confidence": 0.95, "seed": 0, "mixes": MIXES, "curve": CURVE}
    print(json.dumps({**tables, "settings": settings, "versions": versions}, indent=1))


if __name__ == "__main__":
    main()
