"""Win rates with length held equal: AlpacaEval 2's logistic model, fitted plainly on the judgements alone.

Preferences and percent as in `winrate`. The official fit also leans on gamed baselines; see `alpaca_eval`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neftune.errors import DataError, MissingExtraError
from neftune.evaluation.winrate import Floats, Numbers, Preferences, aligned, shares_of, standard_error_of

RIDGE = 1e-4
"""Weight of the squared coefficients in the fit. It moves no published refit by more than 0.01 points; it is there so
that data which the model wins (or loses) without exception have a fit at all."""


NO_PRIOR = "no gamed prior"
"""Label of a fit to the model's own judgements alone."""

NO_DIFFICULTY = "no gamed prior, no difficulty"
"""Label of the same without instruction difficulties: not comparable with published rates."""


@dataclass(frozen=True, slots=True)
class LengthControlledWinRate:
    """What the win rate would be if both answers were equally long.

    Attributes:
        win_rate: In percent.
        standard_error: Robust (sandwich) delta-method standard error over comparisons, in points; it includes which
            instructions were drawn. NaN where the data are separated. The length scale counts as known.
        length_weight: Log-odds per unit of tanh(standardised extra length of the model); above 0 where longer
            answers are preferred. AlpacaEval's tables give it with the opposite sign.
        difficulty_weight: Log-odds per unit of instruction difficulty; None where no difficulty was given.
        model_weight: Log-odds of the model at equal length and difficulty 0.
        num_total: Comparisons fitted.
        label: What the length weight rests on, see `NO_PRIOR`; belongs beside the rate wherever it is shown.
        is_separated: Every comparison is decided, and the fit foretells each of them: the rate is at its bound.
        is_extrapolated: The model's answers are always longer, or always shorter, so equal length was never seen.
    """

    win_rate: float
    standard_error: float
    length_weight: float
    difficulty_weight: float | None
    model_weight: float
    num_total: int
    label: str
    is_separated: bool
    is_extrapolated: bool


def length_controlled_win_rate(
    preferences: Preferences,
    model_lengths: Numbers,
    baseline_lengths: Numbers,
    difficulty: Numbers | None = None,
) -> LengthControlledWinRate:
    """Win rate at equal length: AlpacaEval 2's logistic model, fitted plainly.

        logit P(model wins) = length_weight * tanh(delta / std(delta)) + difficulty_weight * difficulty + model_weight

    with delta = model length - baseline length; the rate is the mean prediction over instructions at delta = 0.
    AlpacaEval also pulls the length weight towards values found on gamed baselines, which this does not. Without
    difficulty the middle term is omitted, and the rate is not comparable with AlpacaEval's published ones (on its
    boards it lies 5 points off at the median).

    Args:
        preferences: One per comparison, see the module's first lines; fractions enter as weights.
        model_lengths: Length of the model's answers, in any one unit (AlpacaEval: characters).
        baseline_lengths: Length of the baseline's answers, in the same unit.
        difficulty: How hard each instruction is for the model's kind, as AlpacaEval's instruction_difficulty.

    Raises:
        DataError: Inputs of unequal length or not finite, no more comparisons than weights, or a length difference
            that never varies, so that length and model cannot be told apart.

    Source: arXiv 2404.04475, equations 1 and 2; tatsu-lab/alpaca_eval, metrics/glm_winrate.py.
    """
    shares, model, baseline = aligned(preferences, model_lengths, baseline_lengths)
    judged = ~np.isnan(shares)
    hardness = None if difficulty is None else difficulty_of(difficulty, len(shares))[judged]
    y, delta = shares[judged], (model - baseline)[judged]
    X = length_features(delta, hardness)
    require_identified(X, delta)
    weights = _fit(X, y)
    X_equal = np.column_stack([np.zeros(len(y)), X[:, 1:]])
    predicted = sigmoid(X_equal @ weights)
    separated = bool(np.isin(y, (0, 1)).all() and ((X @ weights > 0) == (y == 1)).all())
    return LengthControlledWinRate(
        win_rate=float(100 * predicted.mean()),
        standard_error=float("nan") if separated else 100 * standard_error_of(influence_of(X, X_equal, y, weights)),
        length_weight=float(weights[0]),
        difficulty_weight=None if hardness is None else float(weights[1]),
        model_weight=float(weights[-1]),
        num_total=len(y),
        label=NO_DIFFICULTY if hardness is None else NO_PRIOR,
        is_separated=separated,
        is_extrapolated=bool(delta.any() and (delta.min() > 0 or delta.max() < 0)),
    )


def length_controlled_fits(preferences: Floats, delta_lengths: Floats, difficulty: Floats | None = None) -> Floats:
    """Length-controlled win rates of many data sets at once, for bootstrapping; each as if fitted alone.

    Args:
        preferences: (B, n); NaN entries are left out of their row.
        delta_lengths: (B, n) or (n,), model length - baseline length.
        difficulty: (B, n) or (n,); None omits the term.

    Returns:
        (B,) in percent; NaN for a row that has no more comparisons than weights, or whose length difference never
        varies.

    Raises:
        DataError: A preference is out of range, or shapes do not match.
    """
    shares = shares_of(preferences)
    if shares.ndim != 2:
        raise DataError(f"length_controlled_fits needs preferences of shape (B, n), got {shares.shape}.")
    judged = ~np.isnan(shares)
    y = np.where(judged, shares, 0.0)
    columns = [_tanh_lengths(_rows(delta_lengths, shares.shape, "delta_lengths"), judged)]
    if difficulty is not None:
        columns.append(_rows(difficulty, shares.shape, "difficulty"))
    columns.append(np.ones(shares.shape))
    identified = ~np.isnan(columns[0]).any(axis=1) & (judged.sum(axis=1) > len(columns))
    rates = np.full(len(y), np.nan)
    if identified.any():
        X = np.stack([column[identified] for column in columns])
        mask = judged[identified].astype(float)
        weights = _newton(X, y[identified], mask)
        X[0] = 0
        predicted = sigmoid(np.einsum("pbn,bp->bn", X, weights))
        rates[identified] = 100 * (predicted * mask).sum(axis=1) / mask.sum(axis=1)
    return rates


def difficulty_of(difficulty: Numbers, num: int) -> Floats:
    """(n,) checked difficulties.

    Raises:
        DataError: Not one finite number per comparison.
    """
    values = np.asarray(difficulty, dtype=float)
    if values.shape != (num,) or not np.isfinite(values).all():
        raise DataError(f"difficulty needs one finite number per comparison ({num}), got {values.size} values.")
    return values


def length_features(delta: Floats, difficulty: Floats | None) -> Floats:
    """(n, P): tanh of the standardised length difference, difficulty where given, 1 for the model."""
    lengths = _tanh_lengths(delta[None], np.ones((1, len(delta)), dtype=bool))[0]
    middle = [] if difficulty is None else [difficulty]
    return np.column_stack([lengths, *middle, np.ones(len(delta))])


def _tanh_lengths(delta: Floats, judged: NDArray[np.bool_]) -> Floats:
    """(B, n): tanh(delta / std of its row); 0 where lengths are all equal, NaN where the difference is constant."""
    count = judged.sum(axis=1, keepdims=True)
    mean = np.where(judged, delta, 0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    squares = np.where(judged, (delta - mean) ** 2, 0).sum(axis=1, keepdims=True)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    varies = std > 1e-9 * np.maximum(np.abs(mean), 1e-300)
    scaled = np.where(varies, delta / np.where(varies, std, 1), np.where(mean == 0, 0.0, np.nan))
    return np.where(judged, np.tanh(scaled), np.where(np.isnan(scaled), np.nan, 0.0))


def require_identified(X: Floats, delta: Floats) -> None:
    """Refuse features (n, P) that no fit can tell apart.

    Raises:
        DataError: No more comparisons than weights, or a length difference that never varies.
    """
    if len(X) <= X.shape[1]:
        raise DataError(
            f"A length-controlled fit of {X.shape[1]} weights needs more than {X.shape[1]} judged comparisons, "
            f"got {len(X)}. Judge more examples."
        )
    if np.isnan(X).any():
        raise DataError(
            "Length control needs length differences that vary over comparisons, got "
            f"{delta[0]:g} for each of {len(delta)}: length and model cannot be told apart. Use win_rate."
        )


def _fit(X: Floats, y: Floats) -> Floats:
    """Weights (P,) by scikit-learn; a fractional outcome enters as a win and a loss with its two weights."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError(
            "Length control needs scikit-learn, which is not installed. Run: pip install 'neftune[eval]'"
        ) from error
    model = LogisticRegression(C=1 / RIDGE, fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    outcomes = np.repeat([1.0, 0.0], len(y))
    return model.fit(np.vstack([X, X]), outcomes, sample_weight=np.concatenate([y, 1 - y])).coef_[0]


def _newton(X: Floats, y: Floats, mask: Floats) -> Floats:
    """Weights (B, P) of every row's fit, by Newton's method with step halving: X (P, B, n), y and mask (B, n)."""
    weights = np.zeros((X.shape[1], len(X)))
    active = np.arange(X.shape[1])
    for _ in range(100):
        Xa, ya, ma = X[:, active], y[active], mask[active]
        mean = sigmoid(np.einsum("pbn,bp->bn", Xa, weights[active]))
        gradient = np.einsum("pbn,bn->bp", Xa, ma * (mean - ya)) + RIDGE * weights[active]
        curvature = ma * mean * (1 - mean)
        hessian = np.stack([np.einsum("bn,pbn->bp", curvature * x, Xa) for x in Xa], axis=1)
        step = np.linalg.solve(hessian + RIDGE * np.eye(len(X)), gradient[..., None])[..., 0]
        weights[active] = _descend(weights[active], step, Xa, ya, ma)
        active = active[(gradient * step).sum(axis=1) > 1e-13]
        if not active.size:
            break
    return weights


def _descend(weights: Floats, step: Floats, X: Floats, y: Floats, mask: Floats) -> Floats:
    """Weights after the step, which is halved in rows where it would raise the loss."""

    def loss(at: Floats) -> Floats:
        eta = np.einsum("pbn,bp->bn", X, at)
        return (mask * (np.logaddexp(0, eta) - y * eta)).sum(axis=1) + RIDGE / 2 * (at**2).sum(axis=1)

    before = loss(weights)
    scale = np.ones((len(weights), 1))
    for _ in range(40):
        worse = loss(weights - scale * step) > before + 1e-10
        if not worse.any():
            break
        scale[worse] /= 2
    return weights - scale * step


def influence_of(X: Floats, X_equal: Floats, y: Floats, weights: Floats, prior: Floats | None = None) -> Floats:
    """(n,): how much each comparison moves the rate; the standard error of their mean is that of the rate.

    Args:
        X: (n, P) features.
        X_equal: (n, P) features at equal length.
        y: (n,) shares of the preference.
        weights: (P,) of the fit.
        prior: (P, P) curvature of what else the fit minimised; None for this module's ridge.
    """
    mean, predicted = sigmoid(X @ weights), sigmoid(X_equal @ weights)
    held = RIDGE * np.eye(X.shape[1]) if prior is None else prior
    hessian = ((X * (mean * (1 - mean))[:, None]).T @ X + held) / len(y)
    slope = ((predicted * (1 - predicted))[:, None] * X_equal).mean(axis=0)
    return predicted + X @ np.linalg.solve(hessian, slope) * (y - mean)


def sigmoid(x: Floats) -> Floats:
    """Logistic function, of any shape; without overflow warnings."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _rows(values: Floats, shape: tuple[int, ...], name: str) -> Floats:
    """(B, n) from (B, n) or (n,)."""
    array = np.asarray(values, dtype=float)
    if array.shape not in (shape, shape[1:]) or not np.isfinite(array).all():
        raise DataError(f"{name} must be finite, of shape {shape} or {shape[1:]}, got shape {array.shape}.")
    return np.broadcast_to(array, shape)
