"""Sign-flip tests of paired differences: p-values that assume no distribution.

Without an effect, arm and baseline of a pair could be exchanged, which turns a difference's sign. The p-value is the
share of all sign patterns whose mean lies at least as far from zero as the one seen. Flipping seeds asks about other
training runs of these prompts, flipping prompts about other prompts for these runs; both must be rare to speak of both.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neftune.analysis.statistics import FloatArray, drop_undefined

_MOST_EXACT = 16  # 65,536 patterns.


@dataclass(frozen=True, slots=True)
class SignFlips:
    """A sign-flip test of one set of differences.

    Attributes:
        p_value: Two-sided, for no effect.
        smallest: The smallest p-value that this many differences could have given; 0.25 for three seeds.
        num_flipped: How many differences were flipped.
        is_exact: Whether all sign patterns were looked at, instead of a random sample of them.
    """

    p_value: float
    smallest: float
    num_flipped: int
    is_exact: bool


@dataclass(frozen=True, slots=True)
class PairedPermutation:
    """The test over seeds and the test over examples.

    Attributes:
        over_seeds: Flips each seed's mean difference: says something about other seeds, and nothing about prompts.
        over_examples: Flips each example's mean difference: about other examples, and nothing about seeds.
        num_dropped: Examples left out because some seed had no number for them.
    """

    over_seeds: SignFlips
    over_examples: SignFlips
    num_dropped: int

    @property
    def p_value(self) -> float:
        """The larger of both, for a statement about seeds and examples."""
        return max(self.over_seeds.p_value, self.over_examples.p_value)


def paired_permutation(
    differences: npt.ArrayLike, *, rng: np.random.Generator, num_draws: int = 20_000
) -> PairedPermutation:
    """Sign-flip tests of (S, E) paired differences.

    Args:
        differences: (S, E) arm minus baseline; an example with a NaN in any seed is dropped and counted.
        rng: Draws sign patterns where more than 16 differences make all of them too many.
        num_draws: Patterns drawn then.
    """
    table, num_dropped = drop_undefined(differences)
    return PairedPermutation(
        over_seeds=sign_flips(table.mean(axis=1), rng=rng, num_draws=num_draws),
        over_examples=sign_flips(table.mean(axis=0), rng=rng, num_draws=num_draws),
        num_dropped=num_dropped,
    )


def sign_flips(values: FloatArray, *, rng: np.random.Generator, num_draws: int = 20_000) -> SignFlips:
    """The sign-flip test of independent differences (N,): exact up to 16 of them, drawn at random above.

    Source: Fisher's paired randomisation test; the seen pattern counts among those drawn (Phipson, Smyth 2010).
    """
    count = len(values)
    is_exact = count <= _MOST_EXACT
    signs = 1.0 - 2.0 * (_all_patterns(count) if is_exact else rng.integers(2, size=(num_draws, count)).astype(float))
    # Patterns that give the same mean in exact arithmetic must count as equal.
    far = np.abs(signs @ values) >= abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if is_exact:
        return SignFlips(float(far.mean()), min(1.0, 2.0 ** (1 - count)), count, is_exact)
    return SignFlips(float(1 + far.sum()) / (num_draws + 1), 1 / (num_draws + 1), count, is_exact)


def _all_patterns(count: int) -> FloatArray:
    """(2^count, count) of 0 and 1."""
    patterns = np.arange(2**count, dtype=np.int64)[:, None] >> np.arange(count, dtype=np.int64)
    return (patterns & 1).astype(np.float64)
