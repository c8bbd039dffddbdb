"""The closed-form mixed model against statsmodels' optimiser, and at the edge where a variance is zero."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from neftune.analysis.mixed import mixed_effects
from neftune.analysis.statistics import paired_interval
from neftune.errors import DataError


def table(seeds, examples, *, sd, seed=0):
    rng = np.random.default_rng(seed)
    parts = [(seeds, 1), (1, examples), (seeds, examples)]
    return 0.3 + sum(size * rng.standard_normal(shape) for size, shape in zip(sd, parts, strict=True))


def fitted(values):
    """statsmodels' crossed model: one group, seeds and examples as variance components."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    rows, columns = np.indices(values.shape)
    frame = pd.DataFrame({"y": values.ravel(), "s": rows.ravel(), "e": columns.ravel(), "one": 1})
    parts = {"seed": "0 + C(s)", "example": "0 + C(e)"}
    model = MixedLM.from_formula("y ~ 1", groups="one", vc_formula=parts, re_formula="0", data=frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A single group, and estimates on the boundary, are both meant.
        found = model.fit(reml=True, method=["lbfgs", "powell"])
    of = dict(zip(model.exog_vc.names, found.vcomp, strict=True))
    return float(found.params.iloc[0]), float(found.bse.iloc[0]), of["seed"], of["example"], float(found.scale)


def restricted_loss(variances, values):
    """Minus twice the restricted log-likelihood, with the full covariance matrix written out."""
    seeds, examples = values.shape
    of_seed, of_example, of_rest = variances
    covariance = of_rest * np.eye(values.size)
    covariance += of_seed * np.kron(np.eye(seeds), np.ones((examples, examples)))
    covariance += of_example * np.kron(np.ones((seeds, seeds)), np.eye(examples))
    inverse, ones = np.linalg.inv(covariance), np.ones(values.size)
    weight = ones @ inverse @ ones
    rest = values.ravel() - (ones @ inverse @ values.ravel()) / weight
    return np.linalg.slogdet(covariance)[1] + np.log(weight) + rest @ inverse @ rest


def test_it_is_statsmodels_crossed_mixed_model():
    values = table(5, 12, sd=(0.4, 0.8, 0.5))
    estimate, error, of_seed, of_example, of_rest = fitted(values)
    found = mixed_effects(values)
    assert found.estimate == pytest.approx(estimate, abs=1e-6)
    assert found.standard_error == pytest.approx(error, rel=1e-3)
    assert found.sd_seed**2 == pytest.approx(of_seed, rel=5e-3)
    assert found.sd_example**2 == pytest.approx(of_example, rel=5e-3)
    assert found.sd_rest**2 == pytest.approx(of_rest, rel=5e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sd", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.5), (0.5, 0.0, 1.0)])
def test_where_a_variance_is_zero_it_is_the_constrained_maximum(sd, seed):
    values = table(3, 7, sd=sd, seed=seed)
    found = mixed_effects(values)
    ours = (found.sd_seed**2, found.sd_example**2, found.sd_rest**2)
    best = optimize.minimize(
        restricted_loss, (0.3, 0.3, 0.5), args=(values,), bounds=[(0, None), (0, None), (1e-6, None)], method="L-BFGS-B"
    )
    assert restricted_loss(ours, values) <= best.fun + 1e-6
    assert ours == pytest.approx(tuple(best.x), abs=2e-3)


def test_the_estimate_and_error_are_those_of_the_interval_where_no_variance_is_cut_off():
    values = table(4, 30, sd=(0.4, 1.0, 0.5))
    interval, found = paired_interval(values), mixed_effects(values)
    assert (found.estimate, found.standard_error) == pytest.approx((interval.estimate, interval.standard_error))


def test_undefined_examples_are_dropped_and_counted():
    values = table(3, 8, sd=(0.4, 1.0, 0.5))
    values[1, 2] = np.nan
    found = mixed_effects(values)
    assert (found.num_seeds, found.num_examples, found.num_dropped) == (3, 7, 1)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_seed_or_one_example_is_refused(shape):
    with pytest.raises(DataError, match="needs two seeds and two examples, got"):
        mixed_effects(np.zeros(shape))
