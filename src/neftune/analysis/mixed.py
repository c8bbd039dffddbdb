"""The mixed-effects model of a table of paired differences: seeds and examples random, and crossed.

    difference[s, e] = effect + seed[s] + example[e] + rest[s, e]

The table is balanced, so restricted maximum likelihood has a closed form; no optimiser runs and none can fail.
The estimate is the table's mean, as in `paired_interval`, whose interval is the one to report: a mixed model's usual
interval takes its variances for known, which at three seeds covers too rarely.
"""

import math
from dataclasses import dataclass

import numpy.typing as npt

from neftune.analysis.statistics import drop_undefined
from neftune.errors import DataError


@dataclass(frozen=True, slots=True)
class MixedEffects:
    """What a crossed mixed-effects model says of paired differences.

    Attributes:
        estimate: The mean difference.
        standard_error: Its standard error at the variances estimated.
        sd_seed: Standard deviation between seeds, of a seed's mean over endless examples.
        sd_example: Between examples, of an example's mean over endless seeds.
        sd_rest: Of one example with one seed, beyond both.
        num_seeds, num_examples: What it rests on.
        num_dropped: Examples left out because some seed had no number for them.
    """

    estimate: float
    standard_error: float
    sd_seed: float
    sd_example: float
    sd_rest: float
    num_seeds: int
    num_examples: int
    num_dropped: int


def mixed_effects(differences: npt.ArrayLike) -> MixedEffects:
    """The crossed random-effects model of (S, E) differences, fitted by restricted maximum likelihood.

    Where an analysis of variance would give a negative variance, that variance is 0 and its mean square joins the
    residual's: the constrained maximum of a balanced table, in which the likelihood splits into independent parts.

    Args:
        differences: (S, E), at least two of each; an example with a NaN in any seed is dropped and counted.

    Raises:
        DataError: Fewer than two seeds or examples are left.

    Source: Searle, Casella, McCulloch, Variance Components, sections 4.3 and 6.6; the order constraint by pooling
    adjacent violators, Thompson, Annals of Mathematical Statistics 33 (1962), 273-289.
    """
    table, num_dropped = drop_undefined(differences)
    seeds, examples = table.shape
    if min(seeds, examples) < 2:
        raise DataError(f"a mixed-effects model needs two seeds and two examples, got {seeds} and {examples}.")
    mean = float(table.mean())
    by_seed, by_example = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_example[None, :] + mean
    sums = [
        (examples * float(((by_seed - mean) ** 2).sum()), seeds - 1),
        (seeds * float(((by_example - mean) ** 2).sum()), examples - 1),
    ]
    of_rest, of_seed, of_example = _ordered(sums, (float((rest**2).sum()), (seeds - 1) * (examples - 1)))
    return MixedEffects(
        estimate=mean,
        standard_error=math.sqrt((of_seed + of_example - of_rest) / (seeds * examples)),
        sd_seed=math.sqrt((of_seed - of_rest) / examples),
        sd_example=math.sqrt((of_example - of_rest) / seeds),
        sd_rest=math.sqrt(of_rest),
        num_seeds=seeds,
        num_examples=examples,
        num_dropped=num_dropped,
    )


def _ordered(upper: list[tuple[float, int]], least: tuple[float, int]) -> tuple[float, ...]:
    """Mean squares of (sum of squares, degrees of freedom), the last one first, none of the others below it."""
    total, freedom = least
    pooled: set[int] = set()
    for index, (sum_of_squares, own) in sorted(enumerate(upper), key=lambda item: item[1][0] / item[1][1]):
        if sum_of_squares / own < total / freedom:
            total, freedom = total + sum_of_squares, freedom + own
            pooled.add(index)
    base = total / freedom
    return base, *(base if i in pooled else squares / own for i, (squares, own) in enumerate(upper))
