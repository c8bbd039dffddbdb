"""Intervals of paired differences over seeds and examples, honest at three seeds.

Shapes: S seeds, E examples. One entry is arm minus baseline on one example with one seed. docs/statistics.md has the
method's coverage, measured by `benchmarks/interval_coverage.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from neftune.errors import DataError

FloatArray = npt.NDArray[np.float64]

TWO_WAY = "two-way t over seeds and examples"
ONE_SEED = "paired t over examples; one seed: says nothing about seeds"
ONE_EXAMPLE = "paired t over seeds; one example: says nothing about examples"
NONE = "no interval: one seed and one example"


@dataclass(frozen=True, slots=True)
class Component:
    """One independent source of variance of an estimate.

    Attributes:
        variance: Its share of the estimate's variance.
        freedom: Degrees of freedom it was estimated with.
        subtracted: The interaction's share, which was subtracted to get the variance; planning needs it.
    """

    variance: float
    freedom: int
    subtracted: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: The mean difference, or the statistic.
        low, high: Ends of the interval; NaN where one seed and one example leave nothing to estimate it from.
        num_seeds, num_examples: What it rests on.
        num_dropped: Examples left out because some seed had no number for them.
        method: How it was made, in words.
        standard_error: In the estimate's unit.
        p_value: Two-sided, for an effect of zero; below 1 - confidence exactly where the interval excludes zero.
        components: Where its variance comes from: seeds, then examples beyond seeds.
    """

    estimate: float
    low: float
    high: float
    num_seeds: int
    num_examples: int
    num_dropped: int
    method: str
    standard_error: float
    p_value: float
    components: tuple[Component, ...] = ()


def paired_interval(differences: npt.ArrayLike, *, confidence: float = 0.95) -> Interval:
    """The mean of paired differences with an interval for new seeds and new examples.

    Seeds and examples are crossed random effects. The variance of the mean is that between seeds, plus what
    examples add beyond seeds; each part brings Student's t of its own degrees of freedom, weighted by its share
    (Cochran's solution). A plain percentile bootstrap over both covers too rarely at three seeds.

    Args:
        differences: (S, E) arm minus baseline. An example with a NaN or infinity in any seed is dropped and counted.
        confidence: In (0.5, 1).

    Raises:
        DataError: No example is left, or the array is not (S, E).

    Source: Searle, Casella, McCulloch, Variance Components, section 4.3; Cochran, Biometrics 20 (1964), 191-195.
    """
    complete, num_dropped = drop_undefined(differences)
    seeds, examples = complete.shape
    parts, method = mean_components(complete)
    return interval_from(
        float(complete.mean()), parts, confidence=confidence, counts=(seeds, examples, num_dropped), method=method
    )


def drop_undefined(values: npt.ArrayLike) -> tuple[FloatArray, int]:
    """The examples with a finite number in every seed, (S, E'), and how many were dropped.

    Raises:
        DataError: Not a matrix, or nothing is left.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise DataError(f"differences must have shape (seeds, examples), got {matrix.shape}.")
    complete = matrix[:, np.isfinite(matrix).all(axis=0)] if matrix.size else matrix[:, :0]
    if complete.size == 0:
        raise DataError(
            "an interval needs at least one example with a number in every seed, "
            f"got none of {matrix.shape[1]} examples x {matrix.shape[0]} seeds."
        )
    return complete, matrix.shape[1] - complete.shape[1]


def mean_components(complete: FloatArray) -> tuple[tuple[Component, ...], str]:
    """Components of the variance of the grand mean of an (S, E) matrix without NaN, and the method's name."""
    seeds, examples = complete.shape
    by_seed, by_example = complete.mean(axis=1), complete.mean(axis=0)
    if seeds == 1 and examples == 1:
        return (), NONE
    if seeds == 1:
        return (Component(_variance(by_example) / examples, examples - 1),), ONE_SEED
    if examples == 1:
        return (Component(_variance(by_seed) / seeds, seeds - 1),), ONE_EXAMPLE
    rest = complete - by_seed[:, None] - by_example[None, :] + complete.mean()
    interaction = float((rest**2).sum()) / ((seeds - 1) * (examples - 1))
    between_seeds = _variance(by_seed) / seeds
    of_rest = interaction / (seeds * examples)
    beyond_seeds = max(0.0, _variance(by_example) / examples - of_rest)
    return (Component(between_seeds, seeds - 1), Component(beyond_seeds, examples - 1, of_rest)), TWO_WAY


def interval_from(
    estimate: float,
    components: Sequence[Component],
    *,
    confidence: float,
    counts: tuple[int, int, int],
    method: str,
) -> Interval:
    """An interval of an estimate whose variance is the sum of independent components.

    Args:
        estimate: The statistic.
        components: Where its variance comes from; none gives an interval of NaN.
        confidence: In (0.5, 1).
        counts: Seeds, examples, examples dropped.
        method: How it was made, in words.
    """
    if not 0.5 < confidence < 1:
        raise DataError(f"confidence must be in (0.5, 1), got {confidence}. Use 0.95.")
    seeds, examples, dropped = counts
    if not components:
        return Interval(estimate, math.nan, math.nan, seeds, examples, dropped, method, math.nan, math.nan)
    error = math.sqrt(sum(part.variance for part in components))
    # Rounding in sums of equal numbers must not pass for variance.
    error = 0.0 if error <= 1e-13 * abs(estimate) else error
    half = critical_value(components, 1 - confidence) * error
    p_value = p_value_at(abs(estimate), components) if error else float(estimate == 0)
    return Interval(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        num_seeds=seeds,
        num_examples=examples,
        num_dropped=dropped,
        method=method,
        standard_error=error,
        p_value=p_value,
        components=tuple(components),
    )


def critical_value(components: Sequence[Component], level: float, *, num_arms: int = 1) -> float:
    """Cochran's two-sided critical value: Student's t of each component, weighted by its variance.

    Args:
        components: Of the variance; the first is that of seeds.
        level: 0.05 for 95% confidence.
        num_arms: Arms from which the one judged was chosen with the same seeds, though on other examples. Luck of the
            seeds is then shared by choice and judgement, so their component takes its quantile at level / num_arms.
    """
    total = sum(part.variance for part in components)
    if total == 0:
        return 0.0
    levels = [level / num_arms, *(level for _ in components[1:])]
    return (
        sum(
            part.variance * student_quantile(part.freedom, 1 - own / 2)
            for part, own in zip(components, levels, strict=True)
        )
        / total
    )


def p_value_at(distance: float, components: Sequence[Component]) -> float:
    """The level at which Cochran's interval would just reach ``distance``: a two-sided p-value."""
    # Cochran's weighting has no closed inverse.
    error = math.sqrt(sum(part.variance for part in components))
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if critical_value(components, middle) * error > distance:
            low = middle
        else:
            high = middle
    return high


def jackknife_cells(
    statistic: Callable[[FloatArray], FloatArray], *, num_seeds: int, num_examples: int
) -> tuple[float, FloatArray]:
    """A statistic of all cells, and the (S, E) pseudo-values that make it a mean.

    Leaving out a seed, an example and both turns any smooth statistic into one number per cell whose mean is the
    jackknifed statistic; of a mean, they are the differences themselves. `mean_components` then applies.

    Args:
        statistic: Weights (R, S, E) of 0 or 1 -> the statistic under each, (R,).
        num_seeds: S, at least 1.
        num_examples: E, at least 2.

    Source: the delete-one jackknife (Tukey 1958), in both directions of a crossed table.
    """
    full = float(statistic(np.ones((1, num_seeds, num_examples)))[0])
    without_example = _leave_out(statistic, num_seeds, num_examples, seed=None)
    if num_seeds == 1:
        return full, (num_examples * full - (num_examples - 1) * without_example)[None, :]
    rows = np.arange(num_seeds)
    weights = np.repeat((rows[:, None] != rows[None, :]).astype(np.float64)[:, :, None], num_examples, axis=2)
    without_seed = statistic(weights)
    without_both = np.stack([_leave_out(statistic, num_seeds, num_examples, seed=seed) for seed in range(num_seeds)])
    cells = (
        num_seeds * num_examples * full
        - (num_seeds - 1) * num_examples * without_seed[:, None]
        - num_seeds * (num_examples - 1) * without_example[None, :]
        + (num_seeds - 1) * (num_examples - 1) * without_both
    )
    return full, cells


def _leave_out(
    statistic: Callable[[FloatArray], FloatArray], num_seeds: int, num_examples: int, *, seed: int | None
) -> FloatArray:
    columns = np.arange(num_examples)
    weights = np.repeat((columns[:, None] != columns[None, :]).astype(np.float64)[:, None, :], num_seeds, axis=1)
    if seed is not None:
        weights[:, seed, :] = 0.0
    return statistic(weights)


def percentile_bootstrap(
    differences: npt.ArrayLike, *, rng: np.random.Generator | int, confidence: float = 0.95, num_draws: int = 2000
) -> tuple[float, float]:
    """Ends of the plain hierarchical percentile bootstrap: seeds and examples resampled together.

    For comparison: at three seeds it covers as little as 80% where 95% is claimed (docs/statistics.md), so
    `paired_interval` is what effects use. A seed instead of a generator keeps its draws for other tables of that size.
    """
    complete, _ = drop_undefined(differences)
    seeds, examples = complete.shape
    if isinstance(rng, int):
        by_seed, by_example = _fixed_shares(seeds, examples, num_draws, rng)
    else:
        by_seed, by_example = (_resampled_shares(count, num_draws, rng) for count in (seeds, examples))
    means = np.einsum("de,de->d", by_seed @ complete, by_example)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _fixed_shares(seeds: int, examples: int, num_draws: int, seed: int) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    return _resampled_shares(seeds, num_draws, rng), _resampled_shares(examples, num_draws, rng)


def _resampled_shares(count: int, num_draws: int, rng: np.random.Generator) -> FloatArray:
    """Share of each of ``count`` items in ``num_draws`` samples with replacement; six times faster than multinomial."""
    drawn = rng.integers(count, size=(num_draws, count)) + np.arange(num_draws)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=num_draws * count).reshape(num_draws, count) / count


def _variance(values: FloatArray) -> float:
    return float(values.var(ddof=1))


def student_quantile(freedom: int, probability: float) -> float:
    """Quantile of Student's t."""
    return float(cast("float", stdtrit(freedom, probability)))
