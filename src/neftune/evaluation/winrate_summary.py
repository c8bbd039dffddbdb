"""Everything a file of judgements says about one model's win rate, beside each other."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neftune.errors import ConfigError, DataError
from neftune.evaluation.alpaca_eval import PUBLISHED_WEIGHTS, official_win_rate, rate_from_weights
from neftune.evaluation.alpaca_eval_tables import Gamed, Weights
from neftune.evaluation.annotations import Annotations, difficulties_for
from neftune.evaluation.length_control import length_controlled_win_rate
from neftune.evaluation.winrate import WinRate, discrete_win_rate, matched_length_win_rate, win_rate

FEWEST = 10
"""Comparisons below which no length-controlled rate is given: three weights from fewer are noise."""

NO_IDS = "no idx"
"""Label where difficulties are given and rows cannot be joined with them; one such file does not stop the others."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What the user has of AlpacaEval's tables; none of them is needed.

    Attributes:
        difficulties: Instruction -> difficulty.
        weights: Model -> published weights; needs difficulties.
        gamed: The gamed baselines, which bring their own difficulties.
    """

    difficulties: Mapping[str, float] | None = None
    weights: Mapping[str, Weights] | None = None
    gamed: Gamed | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and self.gamed is not None:
            raise DataError("Length control takes published weights or gamed baselines, got both. Leave one out.")
        if self.weights is not None and self.difficulties is None:
            raise DataError("Published weights need the instructions' difficulties, got none. Give --difficulty too.")
        if self.gamed is not None and self.difficulties is not None:
            raise DataError("Gamed baselines bring their own difficulties, got others too. Leave --difficulty out.")


@dataclass(frozen=True, slots=True)
class LengthControl:
    """A length-controlled win rate in percent, its standard error (NaN where unknown), and what it rests on.

    Attributes:
        win_rate, standard_error: NaN where there is none; ``label`` then says why.
        label: What the rate rests on.
        is_extrapolated: Equal length was never seen.
    """

    win_rate: float
    standard_error: float
    label: str
    is_extrapolated: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """One model's row.

    Attributes:
        raw, discrete: Over all judged comparisons; discrete counts a preference above 1.5 as a whole win.
        length_controlled: At equal length.
        matched: Raw, among pairs of about equal length; None where there is no such pair, or no lengths.
        model_length, baseline_length: Mean characters over comparisons whose lengths are known; NaN where none are.
    """

    model: str
    baseline: str
    annotator: str
    raw: WinRate
    discrete: WinRate
    length_controlled: LengthControl
    matched: WinRate | None
    model_length: float
    baseline_length: float


def summarise(annotations: Annotations, tables: Tables, *, tolerance: float = 0.1) -> Summary:
    """The row of one model.

    Args:
        annotations: Its judgements.
        tables: AlpacaEval's tables.
        tolerance: How far lengths of a matched pair may differ, as a share of the longer one.

    Raises:
        ConfigError: The tolerance is no share.
        DataError: No judged comparison, an instruction without a difficulty, or tables given but no lengths.
    """
    if not 0 <= tolerance <= 1:
        raise ConfigError(f"the tolerance of matched lengths must be from 0 to 1, got {tolerance:g}. Use 0.1.")
    one = annotations
    try:
        raw = win_rate(one.preferences)
    except DataError as error:
        raise DataError(f"{one.model}: {error}") from error
    if one.has_lengths:
        controlled, matched = _length_controlled(one, tables), _matched(one, tolerance)
    elif tables.gamed is not None or tables.difficulties is not None:
        raise DataError(
            f"{one.model}: length control needs lengths (len_1 and len_2, or output_1 and output_2), got none."
        )
    else:
        controlled, matched = LengthControl(np.nan, np.nan, "no lengths"), None
    return Summary(
        model=one.model,
        baseline=one.baseline,
        annotator=one.annotator,
        raw=raw,
        discrete=discrete_win_rate(one.preferences),
        length_controlled=controlled,
        matched=matched,
        model_length=_mean(one.model_lengths),
        baseline_length=_mean(one.baseline_lengths),
    )


def _length_controlled(one: Annotations, tables: Tables) -> LengthControl:
    if tables.weights is not None and tables.difficulties is not None:
        if one.model not in tables.weights:
            return LengthControl(np.nan, np.nan, f"not in the {PUBLISHED_WEIGHTS}")
        rate = rate_from_weights(tables.weights[one.model], list(tables.difficulties.values()))
        return LengthControl(rate, np.nan, PUBLISHED_WEIGHTS)
    delta = (one.model_lengths - one.baseline_lengths)[~np.isnan(one.preferences)]
    if len(delta) < FEWEST:
        return LengthControl(np.nan, np.nan, f"fewer than {FEWEST} comparisons")
    if delta.any() and np.ptp(delta) == 0:
        return LengthControl(np.nan, np.nan, "the length difference never varies")
    known = tables.difficulties if tables.gamed is None else tables.gamed.difficulties
    if known is not None and not one.has_ids and len(one.ids) != len(known):
        return LengthControl(np.nan, np.nan, NO_IDS)
    sides = (one.preferences, one.model_lengths, one.baseline_lengths)
    if tables.gamed is not None:
        got = official_win_rate(*sides, difficulties_for(one, tables.gamed.difficulties), gamed=tables.gamed)
    else:
        hardness = None if known is None else difficulties_for(one, known)
        got = length_controlled_win_rate(*sides, hardness)
    return LengthControl(got.win_rate, got.standard_error, got.label, got.is_extrapolated)


def _matched(one: Annotations, tolerance: float) -> WinRate | None:
    lengths = np.maximum(one.model_lengths, one.baseline_lengths)
    close = np.abs(one.model_lengths - one.baseline_lengths) <= tolerance * lengths
    if not (close & ~np.isnan(one.preferences)).any():
        return None
    return matched_length_win_rate(one.preferences, one.model_lengths, one.baseline_lengths, tolerance=tolerance)


def _mean(lengths: np.ndarray) -> float:
    known = lengths[np.isfinite(lengths)]
    return float(known.mean()) if known.size else float("nan")
