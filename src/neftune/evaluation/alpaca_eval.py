"""AlpacaEval's own length control: from its published weights, and by its fit towards gamed baselines.

The official fit adds the judgements of two gamed baselines (the reference told to be verbose, and to be concise), each
with a tenth of a weight, so that the length weight is pulled towards what length alone buys. They come in
`df_gamed.csv`, which AlpacaEval downloads from its data set on the hub; without that file use `length_control`.
"""

import numpy as np

from neftune.errors import DataError, MissingExtraError
from neftune.evaluation.alpaca_eval_tables import Gamed, Weights
from neftune.evaluation.length_control import (
    NO_PRIOR,
    LengthControlledWinRate,
    difficulty_of,
    influence_of,
    length_features,
    require_identified,
    sigmoid,
)
from neftune.evaluation.winrate import Floats, Numbers, Preferences, aligned, standard_error_of

GAMED_PRIOR = "gamed prior"
"""Label of AlpacaEval's own fit, `length_controlled_v1`."""

PUBLISHED_WEIGHTS = "published weights"
"""Label of a rate that was not fitted here."""

GAMED_WEIGHT = 0.1
"""Weight of one judgement of a gamed baseline: AlpacaEval's 0.2, shared by two baselines."""

PENALTIES = np.logspace(-4, 4, 10)
"""Inverse penalties that the cross-validation tries, scikit-learn's default."""

NUM_FOLDS = 5
SEED = 123


def rate_from_weights(model: Weights, difficulties: Numbers, *, baseline: Weights | None = None) -> float:
    """Length-controlled win rate in percent that published weights imply; lengths are equal, so theirs falls out.

        mean over instructions of sigmoid(model_weight + difficulty_weight * difficulty), of the weights' differences

    Args:
        model: The model's weights.
        difficulties: (n,) of all instructions.
        baseline: Another model's weights; None for the table's own baseline, whose weights are 0.

    Source: arXiv 2404.04475, section 3; tatsu-lab/alpaca_eval, metrics/glm_winrate.py, predict_winrate.
    """
    hardness = difficulty_of(difficulties, len(difficulties))
    other = baseline or Weights(0.0, 0.0, 0.0)
    predicted = sigmoid(model.model - other.model + (model.difficulty - other.difficulty) * hardness)
    return float(100 * predicted.mean())


def official_win_rate(
    preferences: Preferences,
    model_lengths: Numbers,
    baseline_lengths: Numbers,
    difficulty: Numbers,
    *,
    gamed: Gamed | None,
) -> LengthControlledWinRate:
    """Length-controlled win rate by AlpacaEval's own procedure, `length_controlled_v1`.

    An L1-penalised logistic fit to the model's judgements and, with weight 0.1 each, the gamed baselines'; the penalty
    is the one with the best log-loss in five folds over judgements. As there, comparisons without a verdict count for
    the length scale and the mean prediction.

    Args:
        preferences: One per comparison, as in `winrate`.
        model_lengths: Length of the model's answers.
        baseline_lengths: Length of the baseline's answers, in the same unit.
        difficulty: Of each comparison's instruction.
        gamed: The gamed baselines' judgements; None leaves them out, as AlpacaEval's `length_controlled_noreg`.

    Raises:
        DataError: As `length_controlled_win_rate`.

    Source: tatsu-lab/alpaca_eval, metrics/glm_winrate.py.
    """
    shares, model, baseline = aligned(preferences, model_lengths, baseline_lengths)
    known = np.isfinite(model - baseline)
    shares, delta = shares[known], (model - baseline)[known]
    features = length_features(delta, difficulty_of(difficulty, len(known))[known])
    judged = ~np.isnan(shares)
    require_identified(features[judged], delta[judged])
    X, y = features[judged], shares[judged]
    gamed_shares, X_gamed = _gamed_rows(gamed)
    weights = _cross_validated_fit(
        np.vstack([X_gamed, X]),
        np.concatenate([gamed_shares, y]),
        np.concatenate([np.full(len(X_gamed), GAMED_WEIGHT), np.ones(len(y))]),
    )
    return LengthControlledWinRate(
        win_rate=float(100 * sigmoid(features[:, 1:] @ weights[1:]).mean()),
        standard_error=100 * standard_error_of(_influence(X, y, X_gamed, weights)),
        length_weight=float(weights[0]),
        difficulty_weight=float(weights[1]),
        model_weight=float(weights[2]),
        num_total=len(y),
        label=NO_PRIOR if gamed is None else GAMED_PRIOR,
        is_separated=bool(np.isin(y, (0, 1)).all() and ((X @ weights > 0) == (y == 1)).all()),
        is_extrapolated=bool(delta.any() and (delta.min() > 0 or delta.max() < 0)),
    )


def _gamed_rows(gamed: Gamed | None) -> tuple[Floats, Floats]:
    """Shares (g,) and features (g, 3) of the gamed baselines, whose answers are not the model's."""
    if gamed is None:
        return np.zeros(0), np.zeros((0, 3))
    return gamed.shares, np.column_stack([gamed.lengths, gamed.difficulty, np.zeros(len(gamed.lengths))])


def _influence(X: Floats, y: Floats, X_gamed: Floats, weights: Floats) -> Floats:
    """(n,): the gamed judgements and the penalty count as known; a weight that the penalty holds at 0 stays there."""
    free = weights != 0
    if not free.any():
        return np.full(len(y), np.nan)
    mean = sigmoid(X_gamed @ weights)
    prior = GAMED_WEIGHT * (X_gamed * (mean * (1 - mean))[:, None]).T @ X_gamed
    X_equal = X * np.array([0, 1, 1])
    return influence_of(X[:, free], X_equal[:, free], y, weights[free], prior[np.ix_(free, free)])


def _cross_validated_fit(X: Floats, shares: Floats, row_weights: Floats) -> Floats:
    """(P,) weights under the penalty that foretells left-out rows best.

    A share enters as a win and a loss with its two weights, both in one fold. Losses are means over a fold's rows, not
    over its weight, and of several best penalties the strongest is taken, as AlpacaEval's scorer does.
    """
    try:
        from sklearn.model_selection import GroupKFold
    except ImportError as error:
        raise MissingExtraError(
            "Length control needs scikit-learn, which is not installed. Run: pip install 'neftune[eval]'"
        ) from error
    if len(X) < NUM_FOLDS:
        raise DataError(f"The official fit needs at least {NUM_FOLDS} judgements for its folds, got {len(X)}.")
    twice = np.concatenate([np.arange(len(X)), np.arange(len(X))])
    outcomes = np.repeat([1, 0], len(X))
    rows = np.concatenate([shares, 1 - shares]) * np.concatenate([row_weights, row_weights])
    scores = np.zeros((NUM_FOLDS, len(PENALTIES)))
    for fold, (train, test) in enumerate(GroupKFold(NUM_FOLDS).split(twice, groups=twice)):
        held_out = np.unique(twice[test])
        for at, weights in enumerate(_lasso_path(X[twice[train]], outcomes[train], rows[train], PENALTIES)):
            scores[fold, at] = -_log_loss(sigmoid(X[held_out] @ weights), shares[held_out], row_weights[held_out])
    best = PENALTIES[scores.sum(axis=0).argmax()]
    return _lasso_path(X[twice], outcomes, rows, np.array([best]))[0]


def _lasso_path(X: Floats, outcomes: Floats, row_weights: Floats, penalties: Floats) -> list[Floats]:
    """Weights (P,) under each inverse penalty; the solver's shuffles follow each other from AlpacaEval's seed."""
    from sklearn.linear_model import LogisticRegression

    shuffles = np.random.RandomState(SEED)
    fits: list[Floats] = []
    for penalty in penalties:
        model = LogisticRegression(
            C=penalty, l1_ratio=1, solver="liblinear", fit_intercept=False, random_state=shuffles
        )
        fits.append(model.fit(X, outcomes, sample_weight=row_weights).coef_[0])
    return fits


def _log_loss(predicted: Floats, shares: Floats, row_weights: Floats) -> float:
    kept = np.clip(predicted, 1e-15, 1 - 1e-15)
    return -float((row_weights * (shares * np.log(kept) + (1 - shares) * np.log(1 - kept))).mean())
