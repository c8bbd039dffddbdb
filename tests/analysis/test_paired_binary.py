"""McNemar's test and Tango's interval: known answers, an independent likelihood, and error rates counted exactly."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from neftune.analysis.paired_binary import compare_shares, mcnemar, score_interval, score_statistic
from neftune.errors import DataError


def scores(both, only_arm, only_baseline, neither):
    """Baseline's and arm's 0 and 1."""
    cells = [(1, 1)] * both + [(0, 1)] * only_arm + [(1, 0)] * only_baseline + [(0, 0)] * neither
    return np.array(cells, dtype=float).T


def likelihood_statistic(only_arm, only_baseline, size, gap):
    """The score statistic with the nuisance share found by maximising the likelihood numerically."""

    def loss(share):  # share: only the baseline is right; only the arm is right: share + gap
        cells = [(only_baseline, share), (only_arm, share + gap)]
        cells.append((size - only_arm - only_baseline, 1 - 2 * share - gap))
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in cells if count)

    low, high = max(0.0, -gap), (1 - gap) / 2
    share = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (only_arm - only_baseline - size * gap) / math.sqrt(size * (2 * share + gap - gap**2))


def test_the_cells_and_shares_are_those_of_the_scores():
    found = compare_shares(*scores(40, 12, 5, 43))
    assert (found.both, found.only_arm, found.only_baseline, found.neither) == (40, 12, 5, 43)
    assert (found.num_examples, found.num_dropped) == (100, 0)
    assert (found.baseline_share, found.arm_share) == (0.45, 0.52)
    assert found.difference == pytest.approx(0.07)
    assert found.low < 0 < found.difference < found.high


@pytest.mark.parametrize(("only_arm", "only_baseline"), [(12, 5), (5, 12), (7, 7), (0, 6), (1, 0), (300, 260)])
def test_the_exact_p_value_is_the_binomial_test(only_arm, only_baseline):
    expected = stats.binomtest(only_arm, only_arm + only_baseline, 0.5).pvalue
    assert mcnemar(only_arm, only_baseline).exact == pytest.approx(expected)


def test_the_mid_p_value_of_a_published_table():
    # Fagerland et al. 2013, table 1 (airway hyper-responsiveness): 1 against 7 discordant of 21.
    found = mcnemar(1, 7)
    assert found.exact == pytest.approx(0.0703, abs=5e-5)
    assert found.mid_p == pytest.approx(0.0391, abs=5e-5)


def test_runs_that_never_disagree_are_not_apart_and_the_interval_has_a_width():
    found = compare_shares(*scores(30, 0, 0, 20))
    assert (found.p_value, found.p_exact, found.difference) == (1.0, 1.0, 0.0)
    z2 = 1.959964**2
    assert (found.low, found.high) == (pytest.approx(-z2 / (50 + z2)), pytest.approx(z2 / (50 + z2)))


@pytest.mark.parametrize("counts", [(12, 5, 100), (5, 12, 100), (0, 3, 20), (3, 0, 20), (1, 1, 5), (70, 30, 100)])
@pytest.mark.parametrize("gap", [-0.6, -0.2, 0.01, 0.15, 0.5])
def test_the_statistic_is_that_of_a_likelihood_maximised_numerically(counts, gap):
    found = float(score_statistic(*counts, gap))
    assert found == pytest.approx(likelihood_statistic(*counts, gap), rel=1e-4)


@pytest.mark.parametrize("counts", [(12, 5, 100), (0, 3, 20), (70, 30, 100), (20, 0, 20), (0, 20, 20)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_ends_where_the_test_would_just_reject(counts, confidence):
    low, high = (float(end) for end in score_interval(*counts, confidence=confidence))
    critical = stats.norm.ppf((1 + confidence) / 2)
    if low > -1:
        assert float(score_statistic(*counts, low)) == pytest.approx(critical if low < high else 0, abs=1e-6)
    if high < 1:
        assert float(score_statistic(*counts, high)) == pytest.approx(-critical, abs=1e-6)
    assert -1 <= low <= (counts[0] - counts[1]) / counts[2] <= high <= 1


def test_exchanging_the_runs_turns_the_interval_round():
    one, other = compare_shares(*scores(40, 12, 5, 43)), compare_shares(*scores(40, 5, 12, 43))
    assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))
    assert one.p_value == other.p_value


@pytest.mark.parametrize("size", [30, 100, 1000])
@pytest.mark.parametrize(
    ("base", "arm", "agree"), [(0.5, 0.5, 0.3), (0.25, 0.3, 0.6), (0.9, 0.88, 0.8), (0.6, 0.4, 0.5)]
)
def test_95_percent_intervals_cover_95_percent(size, base, arm, agree):
    # The share that both get right lies between independence and the most there can be, at ``agree``.
    both = base * arm + agree * (min(base, arm) - base * arm)
    cells = [both, arm - both, base - both, 1 - arm - base + both]
    drawn = np.random.default_rng(0).multinomial(size, cells, size=20_000)
    low, high = score_interval(drawn[:, 1], drawn[:, 2], size)
    covered = 100 * float(((low <= arm - base) & (arm - base <= high)).mean())
    # With two disagreements expected no interval can be near its level; this one then errs on the wide side.
    assert 93.7 <= covered <= (96.5 if size * (cells[1] + cells[2]) > 5 else 99.8)


def test_mcnemar_seldom_rejects_what_is_true():
    # Exactly, over every table of 100 examples: the mid-p test stays within half a point of its level.
    for disagree in (0.05, 0.2, 0.5):
        exact = mid = 0.0
        for total in range(101):
            chance = stats.binom.pmf(total, 100, disagree)
            for ours in range(total + 1):
                weight = chance * stats.binom.pmf(ours, total, 0.5)
                test = mcnemar(ours, total - ours)
                exact += weight * (test.exact <= 0.05)
                mid += weight * (test.mid_p <= 0.05)
        assert exact <= 0.05
        assert exact <= mid <= 0.055


def test_an_example_without_a_number_is_dropped_and_counted():
    found = compare_shares([1, 0, math.nan, 1], [1, 1, 1, math.nan])
    assert (found.num_examples, found.num_dropped, found.only_arm) == (2, 2, 1)


@pytest.mark.parametrize(
    ("baseline", "arm", "said"),
    [
        ([1, 0], [1, 0, 1], r"two lists of one length, got \(2,\) and \(3,\)"),
        ([[1, 0]], [[1, 0]], "two lists of one length"),
        ([0.5, 1], [1, 1], "scores of 0 or 1, got 0.5"),
        ([math.nan], [1], "got none of 1"),
        ([], [], "got none of 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(baseline, arm, said):
    with pytest.raises(DataError, match=said):
        compare_shares(baseline, arm)


def test_impossible_counts_are_refused():
    with pytest.raises(DataError, match="among all 10"):
        score_interval(6, 5, 10)
    with pytest.raises(DataError, match="counts must be >= 0"):
        mcnemar(-1, 3)
    with pytest.raises(DataError, match="confidence must be in"):
        score_interval(1, 1, 10, confidence=95)
