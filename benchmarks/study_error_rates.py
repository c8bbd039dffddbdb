"""How often is a study's verdict wrong, and how often does it find what is there?

Simulates whole studies of runs that were never trained: a score of every arm, seed and example is

    arm + example + run[arm, seed] + example x arm + example x arm x seed

so that arms share the baseline's luck, and held-out and test scores share each run's. Intervals, choice and verdict are
made by the package (`mean_components`, `critical_value`, `rank_arms`, `kind_of`). Prints JSON:

    coverage    of 95% intervals of one arm's effect, at 3, 5 and 10 seeds
    false_use   share of "use" where none of 8 arms does anything, and by the same rule without its allowance for
                the choice
    power       share of "use" where one of 3 arms has an effect, beside what `power_of` predicts from the variances
    confirmed   the same two shares of studies that choose among 8 arms with 3 seeds and judge on fresh ones
    shares      coverage where scores are right or wrong, which no normal model describes
    blocks      coverage of the interval over 3, 4 and 6 blocks, where blocks differ

    python benchmarks/study_error_rates.py > benchmarks/results/study_error_rates_<hardware>_<yyyymm>.json
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import scipy

from neftune.analysis.blocks import pooled_effects
from neftune.analysis.effects import Effect
from neftune.analysis.judging import better_side, rank_arms
from neftune.analysis.power import detectable_effect, power_of
from neftune.analysis.statistics import Component, FloatArray, Interval, critical_value, mean_components
from neftune.analysis.verdict import kind_of
from neftune.config import Decision

TABLES = ["coverage", "false_use", "power", "confirmed", "shares", "blocks"]
HELDOUT, TEST = 200, 300
RULE = Decision(choose_by="quality", judge_by="quality")


@dataclass(frozen=True)
class Mix:
    """Standard deviations of an arm's difference from the baseline: of a seed, an example, an example with a seed."""

    seed: float
    example: float
    rest: float


@dataclass(frozen=True)
class Outcome:
    """Which arm was chosen, what the rule says of it, and whether its plain interval lies on the better side."""

    arm: int
    kind: str
    is_clear: bool


MIXES: Mapping[str, Mix] = {
    "quickstart, loss": Mix(0.0013, 0.070, 0.018),
    "quickstart, facts": Mix(0.013, 0.300, 0.178),
    "quickstart, closed questions": Mix(0.012, 0.230, 0.126),
    "seeds as examples": Mix(0.06, 1.0, 0.5),
    "seeds strong": Mix(0.4, 1.0, 0.3),
    "seeds dominate": Mix(1.0, 0.3, 0.3),
}
"""The first three: medians over arms and worlds of the quickstart's test part (docs/results.md), by `mixed_effects`."""


def one_table(of_runs: FloatArray, mix: Mix, examples: int, rng: np.random.Generator) -> FloatArray:
    """(S, E) differences of one arm from the baseline, whose runs' luck (S,) is given."""
    of_examples = mix.example * rng.standard_normal((1, examples))
    rest = mix.rest * rng.standard_normal((len(of_runs), examples))
    return np.asarray(of_runs[:, None] + of_examples + rest, dtype=np.float64)


def interval_of(table: FloatArray) -> Interval:
    """As `paired_interval` of (S, E), without the p-value, which costs ten times as much and decides nothing."""
    parts, method = mean_components(table)
    estimate, error = float(table.mean()), math.sqrt(sum(part.variance for part in parts))
    half = critical_value(parts, 0.05) * error
    counts = (*table.shape, 0)
    return Interval(estimate, estimate - half, estimate + half, *counts, method, error, math.nan, parts)


def true_components(mix: Mix, seeds: int, examples: int = TEST) -> tuple[Component, Component]:
    """The variance of an arm's mean difference, as `paired_interval` would find it from endless studies."""
    rest = mix.rest**2 / (seeds * examples)
    return Component(mix.seed**2 / seeds + rest, seeds - 1), Component(mix.example**2 / examples, examples - 1, rest)


def as_effect(interval: Interval, *, arm: str, part: str, seeds: int, block: str = "") -> Effect:
    """A simulated difference as the effect on "quality", of which more is better."""
    return Effect(
        block=block,
        part=part,
        arm=arm,
        metric="quality",
        baseline_mean=0.0,
        arm_mean=interval.estimate,
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        standard_error=interval.standard_error,
        p_value=interval.p_value,
        seeds=tuple(range(seeds)),
        num_examples=interval.num_examples,
        num_dropped=0,
        unit="",
        direction="higher",
        method=interval.method,
        components=interval.components,
    )


def simulated(mix: Mix, *, arms: int, seeds: int, effect: float, rng: np.random.Generator, confirm: int = 0) -> Outcome:
    """What the rule says of a study in which the first arm has an effect.

    The held-out part chooses by its means, and only the chosen arm's test table is looked at, so only these are drawn.
    With ``confirm`` seeds the chosen arm is judged on that many fresh runs, beside no other candidate.
    """

    def drawn(sd: float, *shape: int) -> FloatArray:
        # Differences from one baseline: any two arms' luck is correlated by one half.
        each = rng.standard_normal((arms + 1, *shape)) * (sd / math.sqrt(2))
        return np.asarray(each[1:] - each[:1], dtype=np.float64)

    of_runs = drawn(mix.seed, seeds)
    of_runs[0] += effect
    heldout = of_runs.mean(axis=1) + drawn(math.sqrt(mix.example**2 / HELDOUT + mix.rest**2 / (seeds * HELDOUT)))
    names = [f"alpha={arm}" for arm in range(1, arms + 1)]
    effects = [
        as_effect(_known(float(mean)), arm=name, part="heldout", seeds=seeds)
        for name, mean in zip(names, heldout, strict=True)
    ]
    candidates = rank_arms(effects, names, blocks=[""], metric="quality")
    chosen = names.index(candidates[0].arm)
    judging = of_runs[chosen]
    if confirm:
        judging, candidates = mix.seed * rng.standard_normal(confirm) + effect * (chosen == 0), candidates[:1]
    interval = interval_of(one_table(judging, mix, TEST, rng))
    judged = as_effect(interval, arm=names[chosen], part="test", seeds=confirm or seeds)
    return Outcome(chosen, kind_of([judged], [], RULE, candidates), better_side(judged)[0] > 0)


def coverage(mix: Mix, seeds: int, studies: int, rng: np.random.Generator) -> dict[str, object]:
    """How often the interval of one arm's effect covers the truth."""
    made = (one_table(mix.seed * rng.standard_normal(seeds), mix, TEST, rng) for _ in range(studies))
    ends = np.array([_ends(interval_of(table)) for table in made])
    return _rate((ends[:, 0] <= 0) & (ends[:, 1] >= 0)) | {"half_width": _digits(float(np.diff(ends).mean()) / 2)}


def false_use(mix: Mix, arms: int, seeds: int, studies: int, rng: np.random.Generator) -> dict[str, object]:
    """How often the verdict is "use" where no arm does anything, and how often it would be without the allowance."""
    found = [simulated(mix, arms=arms, seeds=seeds, effect=0.0, rng=rng) for _ in range(studies)]
    plain = np.mean([outcome.is_clear for outcome in found])
    used = np.array([outcome.kind == "use" for outcome in found])
    return {"arms": arms} | _rate(used) | {"without_allowance": round(100 * float(plain), 2)}


def power(mix: Mix, arms: int, seeds: int, studies: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """How often the one arm with an effect is called "use" where it was chosen, and what was predicted."""
    parts, rows = true_components(mix, seeds), list[dict[str, object]]()
    for wanted in (0.5, 0.8):
        effect = detectable_effect(parts, power=wanted, num_arms=arms)
        found = [simulated(mix, arms=arms, seeds=seeds, effect=effect, rng=rng) for _ in range(studies)]
        used = np.array([outcome.kind == "use" and outcome.arm == 0 for outcome in found])
        right = round(100 * float(np.mean([outcome.arm == 0 for outcome in found])), 1)
        about = {"arms": arms, "effect": _digits(effect), "right_arm_chosen": right}
        rows.append(about | {"predicted": round(100 * power_of(effect, parts, num_arms=arms), 1)} | _rate(used))
    return rows


def confirmed(mix: Mix, seeds: int, studies: int, rng: np.random.Generator) -> dict[str, object]:
    """Rates of studies that choose among 8 arms with 3 seeds and judge the chosen one on fresh seeds.

    False "use" where no arm does anything; and, where one has the effect that the fresh seeds find four times in five,
    how often that arm is chosen, and how often a study that chose it says "use".
    """
    null = [simulated(mix, arms=8, seeds=3, effect=0.0, rng=rng, confirm=seeds) for _ in range(studies)]
    effect = detectable_effect(true_components(mix, seeds), power=0.8)
    planted = [simulated(mix, arms=8, seeds=3, effect=effect, rng=rng, confirm=seeds) for _ in range(studies)]
    right = [outcome.kind == "use" for outcome in planted if outcome.arm == 0]
    false_use = _rate(np.array([outcome.kind == "use" for outcome in null]))
    found = _rate(np.array(right)) if right else {}
    return {"effect": _digits(effect), "false_use": false_use, "found_if_chosen": found} | {
        "right_arm_chosen": round(100 * len(right) / studies, 1)
    }


def shares(seeds: int, examples: int, studies: int, rng: np.random.Generator) -> dict[str, object]:
    """Coverage for right or wrong answers: a latent normal score of arm, seed and example, cut at zero."""
    level, drift, ends = 0.7, 0.08, list[tuple[float, float]]()
    spread = NormalDist(0, math.sqrt(1 + 1 + 0.1**2 + 0.6**2))
    truth = spread.cdf(level + drift) - spread.cdf(level)
    for _ in range(studies):
        example = rng.standard_normal((1, 1, examples))
        of_arm = 0.6 * rng.standard_normal((2, 1, examples)) + 0.1 * rng.standard_normal((2, seeds, 1))
        latent = level + drift * np.array([0, 1])[:, None, None] + example + of_arm
        right = (latent + rng.standard_normal((2, seeds, examples)) > 0).astype(float)
        ends.append(_ends(interval_of(right[1] - right[0])))
    low, high = np.array(ends).T
    return {"seeds": seeds, "examples": examples, "truth": _digits(truth)} | _rate((low <= truth) & (truth <= high))


def blocks(num_blocks: int, sd_blocks: float, studies: int, rng: np.random.Generator) -> dict[str, object]:
    """Coverage of the interval over blocks, whose effects differ, for the mean of endless blocks."""
    mix, covered = MIXES["seeds as examples"], list[bool]()
    for _ in range(studies):
        effects: list[Effect] = []
        for block in range(num_blocks):
            of_runs = mix.seed * rng.standard_normal(3) + sd_blocks * rng.standard_normal()
            table = one_table(of_runs, mix, TEST, rng)
            interval = interval_of(table)
            effects.append(as_effect(interval, arm="alpha=1", part="test", seeds=3, block=f"world={block}"))
        (pooled,) = pooled_effects(effects)
        covered.append(pooled.low <= 0 <= pooled.high)
    return {"blocks": num_blocks, "sd_blocks": sd_blocks} | _rate(np.array(covered))


def _known(estimate: float) -> Interval:
    return Interval(
        estimate, math.nan, math.nan, 0, HELDOUT, 0, "choosing needs the estimate alone", math.nan, math.nan
    )


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _rate(hits: np.ndarray) -> dict[str, object]:
    share = float(hits.mean())
    error = math.sqrt(max(share * (1 - share), 1 / len(hits)) / len(hits))
    return {"percent": round(100 * share, 2), "standard_error": round(100 * error, 2), "studies": len(hits)}


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _of_mix(table: str, mix: Mix, seeds: int, studies: int, rng: np.random.Generator) -> list[dict[str, object]]:
    match table:
        case "coverage":
            return [coverage(mix, seeds, 2 * studies, rng)]
        case "false_use":
            return [false_use(mix, 8, seeds, studies, rng)]
        case "power":
            return power(mix, 3, seeds, studies, rng)
        case "confirmed":
            return [confirmed(mix, seeds, studies, rng)]
        case _:
            return []


def main() -> None:
    """Print the tables as JSON."""
    parser = argparse.ArgumentParser(description="Error rates of simulated studies.")
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a cell")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="which (default: all)")
    options = parser.parse_args()
    studies, asked = options.studies, options.tables
    began, rng = time.perf_counter(), np.random.default_rng(0)
    tables: dict[str, list[dict[str, object]]] = {name: [] for name in asked}
    for seeds in (3, 5, 10):
        for name, mix in MIXES.items():
            about = {"mix": name, "seeds": seeds}
            for table in asked:
                tables[table] += [about | row for row in _of_mix(table, mix, seeds, studies, rng)]
            print(f"{seeds} seeds, {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        if "shares" in asked:
            tables["shares"] += [shares(seeds, examples, 2 * studies, rng) for examples in (100, 300)]
    if "blocks" in asked:
        tables["blocks"] = [blocks(count, sd, studies, rng) for count in (3, 4, 6) for sd in (0.0, 0.1, 0.5)]
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    mixes = {name: [mix.seed, mix.example, mix.rest] for name, mix in MIXES.items()}
    settings = {"heldout": HELDOUT, "test": TEST, "confidence": 0.95, "seed": 0, "mixes": mixes}
    print(json.dumps({**tables, "settings": settings, "versions": versions}, indent=1))


if __name__ == "__main__":
    main()
