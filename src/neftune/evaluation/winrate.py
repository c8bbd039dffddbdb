"""Pairwise win rates, raw and among pairs of matched length, in AlpacaEval's conventions.

A preference is 1 where the baseline wins, 2 where the model wins, anything between for a judge that is unsure,
0 or 1.5 for a draw, and None or NaN where the judge's verdict could not be read (dropped, never a loss).
Rates and standard errors are in percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neftune.errors import DataError

Preferences = Sequence[float | None] | NDArray[np.float64]
Numbers = Sequence[float] | NDArray[np.float64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often the model is preferred.

    Attributes:
        win_rate: Mean share of the preference that goes to the model, in percent; a draw counts half.
        standard_error: Standard error of that mean over comparisons, in points; NaN for one comparison.
        num_wins, num_losses, num_draws: Comparisons above, below and at 1.5.
        num_total: Comparisons judged; unparsed ones are not among them.
        num_unparsed: Comparisons dropped because the verdict is None or NaN.
    """

    win_rate: float
    standard_error: float
    num_wins: int
    num_losses: int
    num_draws: int
    num_total: int
    num_unparsed: int = 0


def win_rate(preferences: Preferences) -> WinRate:
    """Raw win rate with its standard error and counts.

    Args:
        preferences: One per comparison, see the module's first lines.

    Raises:
        DataError: A preference is out of range, or none is left after dropping the unparsed ones.

    Source: tatsu-lab/alpaca_eval, metrics/winrate.py, pairwise_to_winrate.
    """
    all_shares = shares_of(preferences)
    shares = all_shares[~np.isnan(all_shares)]
    if not shares.size:
        raise DataError(
            f"win_rate needs at least one judged comparison, got {all_shares.size} of which all are unparsed. "
            "Check the judge, or leave the win rate out."
        )
    return WinRate(
        win_rate=float(100 * shares.mean()),
        standard_error=100 * standard_error_of(shares),
        num_wins=int((shares > 0.5).sum()),
        num_losses=int((shares < 0.5).sum()),
        num_draws=int((shares == 0.5).sum()),
        num_total=shares.size,
        num_unparsed=all_shares.size - shares.size,
    )


def discrete_win_rate(preferences: Preferences) -> WinRate:
    """Win rate of decided verdicts: a preference above 1.5 is a win, below it a loss, at it a draw.

    The same as `win_rate` where the judge is sure of every verdict. Where preferences are probabilities it answers
    "how often is the model preferred", while `win_rate` answers "how much of the judge's belief goes to it".

    Raises:
        DataError: As `win_rate`.

    Source: tatsu-lab/alpaca_eval, metrics/helpers.py, ZeroOneScoringRule.
    """
    return win_rate(1.5 + 0.5 * np.sign(shares_of(preferences) - 0.5))


def matched_length_win_rate(
    preferences: Preferences, model_lengths: Numbers, baseline_lengths: Numbers, *, tolerance: float = 0.1
) -> WinRate:
    """Raw win rate among pairs whose lengths differ by at most ``tolerance`` of the longer one: no model assumed.

    Raises:
        DataError: Inputs of unequal length, or no judged pair is that close.
    """
    shares, model, baseline = aligned(preferences, model_lengths, baseline_lengths)
    close = np.abs(model - baseline) <= tolerance * np.maximum(model, baseline)
    if not (close & ~np.isnan(shares)).any():
        raise DataError(
            f"matched_length_win_rate needs pairs whose lengths differ by at most {tolerance:.0%}, got none among "
            f"{len(shares)}. Raise the tolerance, or use length_controlled_win_rate."
        )
    return win_rate(1 + shares[close])


def preferences_from_quality(model: Numbers, baseline: Numbers) -> list[float]:
    """Preferences that a judge of absolute quality implies: 2, 1 or 1.5; NaN where either quality is NaN.

    Args:
        model: Quality of the model's answers, higher is better.
        baseline: Quality of the baseline's answers to the same prompts.

    Raises:
        DataError: Inputs of unequal length.
    """
    ours, theirs = np.asarray(model, dtype=float), np.asarray(baseline, dtype=float)
    if ours.shape != theirs.shape:
        raise DataError(f"Both sides need the same examples, got {ours.size} and {theirs.size}. Pair them by id.")
    return list(1.5 + 0.5 * np.sign(ours - theirs))


def shares_of(preferences: Preferences) -> Floats:
    """Share of each preference that goes to the model, 0 to 1; NaN where unparsed.

    Raises:
        DataError: A preference is no number, or out of range.
    """
    try:
        if isinstance(preferences, np.ndarray):
            values = preferences.astype(float)
        else:
            values = np.array([np.nan if p is None else float(p) for p in preferences], dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Preferences must be numbers from 1 to 2, 0 for a draw or None for unparsed, got {preferences!r:.80}. "
            "Give one entry per comparison."
        ) from error
    values = np.where(values == 0, 1.5, values)
    wrong = ~(np.isnan(values) | ((values >= 1) & (values <= 2)))
    if wrong.any():
        raise DataError(
            "A preference must be between 1 (baseline wins) and 2 (model wins), 0 for a draw or None for unparsed, "
            f"got {values[wrong][0]:g} (and {int(wrong.sum()) - 1} more like it)."
        )
    return values - 1


def aligned(preferences: Preferences, model_lengths: Numbers, baseline_lengths: Numbers) -> tuple[Floats, ...]:
    """Shares and both lengths, each (n,); a length that is not finite is NaN.

    Raises:
        DataError: Inputs of unequal length, or a judged comparison without its lengths.
    """
    shares = shares_of(preferences)
    model, baseline = np.asarray(model_lengths, dtype=float), np.asarray(baseline_lengths, dtype=float)
    if not shares.shape == model.shape == baseline.shape:
        raise DataError(
            "Preferences, model_lengths and baseline_lengths need one entry per comparison, got "
            f"{shares.size}, {model.size} and {baseline.size}. Pair them by example."
        )
    judged = ~np.isnan(shares)
    lengths = np.concatenate([model[judged], baseline[judged]])
    if not np.isfinite(lengths).all() or lengths.min(initial=0) < 0:
        raise DataError("Lengths must be finite and >= 0, got others. Drop the comparisons that have no answer.")
    # A comparison that was not judged is dropped later, whatever its lengths; infinities would warn on the way.
    return shares, *(np.where(np.isfinite(side), side, np.nan) for side in (model, baseline))


def standard_error_of(values: Floats) -> float:
    """Of the mean; NaN for one value."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")
