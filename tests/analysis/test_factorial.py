"""Main effects and interactions: against planted truth, against statsmodels, and where arms are missing."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from neftune.analysis.designs import contrasts, find_design, level_key, level_name
from neftune.analysis.differences import study_differences
from neftune.analysis.effects import find_effects, study_effects
from neftune.analysis.factorial import factorial
from neftune.analysis.statistics import paired_interval
from tests.synthetic import make_study
from tests.synthetic_designs import Luck, make_design, product

CUBE = {"noise.alpha": [0, 5.0], "train.weight_decay": [0.0, 0.1], "model.lora.dropout": [0.0, 0.3]}
STUDIES = 300


def is_on(setting, knob):
    return float(bool(setting.get(knob)))


def truth(setting):
    a, w, d = (is_on(setting, knob) for knob in CUBE)
    return -0.1 * a + 0.05 * w + 0.2 * d + 0.08 * a * w - 0.04 * a * w * d


def found(effects, *knobs):
    (one,) = [e for e in effects if e.knobs == knobs]
    return one


@pytest.fixture(scope="module")
def cube():
    return make_design(product(CUBE), truth, seeds=(0, 1, 2, 3))


@pytest.fixture(scope="module")
def effects(cube):
    (one,) = factorial(cube, part="test", metric="loss")
    return one.effects


def matrix(study, arm, part="test"):
    runs = [run for run in study.planned if run.arm == arm]
    return np.array([study.records[run.run_id].scores[part].values["loss"] for run in runs])


def test_planted_effects_are_found_without_luck():
    study = make_design(product(CUBE), truth, luck=Luck(0, 0, 1e-9))
    (one,) = factorial(study, part="test", metric="loss")
    expected = {
        ("noise.alpha",): -0.1 + 0.04 - 0.01,
        ("train.weight_decay",): 0.05 + 0.04 - 0.01,
        ("model.lora.dropout",): 0.2 - 0.01,
        ("noise.alpha", "train.weight_decay"): 0.08 - 0.02,
        ("noise.alpha", "model.lora.dropout"): -0.02,
        ("train.weight_decay", "model.lora.dropout"): -0.02,
        tuple(CUBE): -0.04,
    }
    assert {e.knobs: pytest.approx(e.estimate, abs=1e-6) for e in one.effects} == expected
    assert [len(e.knobs) for e in one.effects] == [1, 1, 1, 2, 2, 2, 3]


def test_estimates_are_those_of_ordinary_least_squares(cube, effects):
    smf = pytest.importorskip("statsmodels.formula.api")
    import pandas as pd

    rows = [
        {"loss": float(np.mean(record.scores["test"].values["loss"])), "seed": str(run.seed)}
        | {name: is_on(run.setting, knob) - 0.5 for name, knob in zip("awd", CUBE, strict=True)}
        for run in cube.planned
        for record in [cube.records[run.run_id]]
    ]
    fit = smf.ols("loss ~ a * w * d + seed", pd.DataFrame(rows)).fit()
    names = {knob: name for name, knob in zip("awd", CUBE, strict=True)}
    for effect in effects:
        term = ":".join(names[knob] for knob in effect.knobs)
        assert effect.estimate == pytest.approx(fit.params[term], abs=1e-12)


def test_a_factor_of_three_levels_gives_the_treatment_contrasts_of_least_squares():
    smf = pytest.importorskip("statsmodels.formula.api")
    import pandas as pd

    study = make_design(
        product({"noise.alpha": [0, 5.0], "data.template": ["alpaca", "plain", "chat"]}), lambda s: len(str(s)) / 50
    )
    (one,) = factorial(study, part="test", metric="loss")
    rows = [
        {
            "loss": float(np.mean(study.records[run.run_id].scores["test"].values["loss"])),
            "a": is_on(run.setting, "noise.alpha") - 0.5,
            "t": run.setting["data.template"],
        }
        for run in study.planned
    ]
    fit = smf.ols("loss ~ a * C(t, Treatment('alpaca'))", pd.DataFrame(rows)).fit()
    for level in ("plain", "chat"):
        (main,) = [e for e in one.effects if e.knobs == ("data.template",) and e.levels == (level,)]
        (cross,) = [e for e in one.effects if len(e.knobs) == 2 and e.levels == (5.0, level)]
        term = f"C(t, Treatment('alpaca'))[T.{level}]"
        assert main.estimate == pytest.approx(fit.params[term])
        assert cross.estimate == pytest.approx(fit.params[f"a:{term}"])


def test_intervals_are_those_of_the_contrasts_own_table(cube, effects):
    arms = {arm: matrix(cube, arm) for arm in dict.fromkeys(run.arm for run in cube.planned)}
    settings = {run.arm: run.setting for run in cube.planned}
    table = sum((1 if settings[arm]["noise.alpha"] else -1) * values for arm, values in arms.items()) / 4
    expected, effect = paired_interval(table), found(effects, "noise.alpha")
    assert (effect.low, effect.high) == pytest.approx((expected.low, expected.high))
    assert effect.p_value == pytest.approx(expected.p_value)
    assert (effect.num_seeds, effect.num_examples, effect.num_settings) == (4, 40, 4)


def test_a_contrast_of_two_arms_is_the_arms_own_effect():
    study = make_design(product({"noise.alpha": [0, 5.0], "train.weight_decay": [0.0, 0.1]}), truth)
    (table,) = study_differences(study, part="test", metric="loss")
    arm = "alpha=5.0, weight_decay=0.0"
    weights = np.array([1.0 if name == arm else 0.0 for name in table.arms])
    (effect,) = find_effects(study_effects(study), part="test", arm=arm, metric="loss")
    interval = table.contrast(weights, confidence=0.95)
    assert (interval.estimate, interval.low) == pytest.approx((effect.estimate, effect.low))


def test_p_values_are_adjusted_for_all_contrasts(effects):
    smallest = min(effects, key=lambda e: e.p_value)
    assert smallest.adjusted == pytest.approx(min(1.0, smallest.p_value * len(effects)))
    assert all(e.adjusted >= e.p_value for e in effects)
    assert all(e.detectable > 0 for e in effects)


def test_a_missing_arm_leaves_its_settings_out_and_is_named():
    gone = "alpha=5.0, weight_decay=0.1, dropout=0.3"
    study = make_design(product(CUBE), truth, luck=Luck(0, 0, 1e-9), failed=[(gone, seed) for seed in (0, 1, 2)])
    (one,) = factorial(study, part="test", metric="loss")
    noise = found(one.effects, "noise.alpha")
    assert (noise.num_settings, noise.left_out) == (3, ("weight_decay=0.1, dropout=0.3",))
    assert noise.estimate == pytest.approx((-0.1 - 0.1 - 0.02) / 3, abs=1e-6)
    assert one.missing == (f"{gone} (0 of 3 seeds)",)
    assert not [e for e in one.effects if len(e.knobs) == 3]
    assert found(one.effects, "noise.alpha", "train.weight_decay").num_settings == 1


def test_an_arm_with_few_of_its_seeds_is_left_out_but_one_lost_seed_is_not():
    arm = "alpha=5.0, weight_decay=0.1"
    axes = {"noise.alpha": [0, 5.0], "train.weight_decay": [0.0, 0.1]}
    few = make_design(product(axes), truth, seeds=range(5), failed=[(arm, seed) for seed in (0, 1, 2)])
    (one,) = factorial(few, part="test", metric="loss")
    assert one.missing == (f"{arm} (2 of 5 seeds)",)
    lost = make_design(product(axes), truth, seeds=range(5), failed=[(arm, 0)])
    (one,) = factorial(lost, part="test", metric="loss")
    assert one.missing == ()
    assert found(one.effects, "noise.alpha").num_seeds == 4


def test_levels_may_be_anything_a_recipe_can_say():
    axes = {"noise.alpha": [0, 5.0], "model.lora.target_modules": ["all-linear", ["q_proj"], ["q_proj", "v_proj"]]}
    study = make_design(product(axes), lambda s: 0.0)
    assert [factor.levels for factor in find_design(study).factors] == [tuple(v) for v in axes.values()]
    values = [0, False, "0", None, [], ["a"], 1, True, "yes"]
    assert len({level_key(value) for value in values}) == len(values)
    assert level_key(1) == level_key(1.0)
    assert [level_name(v) for v in (0.5, True, None, ["q", "v"], "linear")] == ["0.5", "yes", "none", "q+v", "linear"]


def test_a_knob_that_an_arm_does_not_name_has_the_runs_own_value():
    settings = [{}, {"noise.alpha": 5.0}, {"train.weight_decay": 0.1}, {"noise.alpha": 5.0, "train.weight_decay": 0.1}]
    study = make_design(settings, truth, luck=Luck(0, 0, 1e-9))
    (one,) = factorial(study, part="test", metric="loss")
    assert found(one.effects, "noise.alpha", "train.weight_decay").estimate == pytest.approx(0.08, abs=1e-6)


def test_a_knob_of_the_noise_is_compared_among_noisy_arms_alone():
    noisy = product({"noise.alpha": [5.0, 10.0], "noise.distribution": ["uniform", "gaussian"]})
    study = make_design([{"noise.alpha": 0, "noise.distribution": "uniform"}, *noisy], lambda s: len(s) / 10)
    (one,) = factorial(study, part="test", metric="loss")
    effect = found(one.effects, "noise.distribution")
    assert (effect.levels, effect.num_settings, effect.left_out) == (("gaussian",), 2, ("alpha=0",))


@pytest.mark.parametrize(
    "settings",
    [
        product({"noise.alpha": [0, 1.0, 5.0]}),
        [{"noise.alpha": 0}, {"noise.alpha": 5.0}, {"noise.alpha": 0, "train.weight_decay": 0.1}],
        [{"noise.alpha": 0, "train.weight_decay": 0.0}, {"noise.alpha": 5.0, "train.weight_decay": 0.1}],
    ],
)
def test_arms_that_are_not_crossed_are_no_factorial(settings):
    study = make_design(settings, truth)
    assert find_design(study) is None
    assert factorial(study, part="test", metric="loss") == ()


def test_many_arms_of_many_knobs_are_looked_through_at_once():
    rng = np.random.default_rng(0)
    knobs = [f"train.knob_{i}" for i in range(5)]
    settings = [{knob: float(value) for knob, value in zip(knobs, rng.random(5), strict=True)} for _ in range(300)]
    study = make_design([{}], truth)
    planned = tuple(
        type(study.planned[0])(f"{i}", f"arm {i}", "", 0, {}, is_baseline=i == 0, setting=setting)
        for i, setting in enumerate(settings)
    )
    assert find_design(type(study)(study.recipe, planned, {}, {})) is None


def test_win_rates_are_contrasts_of_rates_against_one_baseline():
    study = make_study(control=False, blocks=("",))
    tables = {
        name: study_differences(study, part="test", metric=name)[0]
        for name in ("win_rate", "lc_win_rate", "lc_win_rate_vs_reference", "loss", "verbatim")
    }
    effects = study_effects(study)
    for name, table in tables.items():
        for place, arm in enumerate(table.arms[1:], start=1):
            (effect,) = find_effects(effects, part="test", arm=arm, metric=name)
            interval = table.contrast(np.eye(len(table.arms))[place], confidence=0.95)
            assert interval.estimate == pytest.approx(effect.estimate)
            assert interval.standard_error == pytest.approx(effect.standard_error)
            assert table.baseline_mean == pytest.approx(effect.baseline_mean)


def test_preferences_over_another_arm_than_the_baseline_are_not_mixed_in():
    from dataclasses import replace

    study = make_study(control=False, blocks=("",), judge=False)
    ids = {run.run_id: study.records[run.run_id].scores["test"].example_ids for run in study.planned}
    judged = {("test", run.run_id): dict.fromkeys(ids[run.run_id], 2.0) for run in study.planned if not run.is_baseline}
    planned = tuple(replace(run, against="nsr=0.3") if run.arm == "nsr=0.6" else run for run in study.planned)
    (table,) = study_differences(replace(study, judged=judged, planned=planned), part="test", metric="win_rate")
    assert table.arms == ("baseline", "nsr=0.3", "nsr=1.0")
    assert table.estimates[1] == 50


def test_controls_are_no_part_of_a_design():
    (table,) = study_differences(make_study(blocks=("",), judge=False), part="test", metric="loss")
    assert table.arms == ("baseline", "nsr=0.3", "nsr=0.6", "nsr=1.0")


def test_nothing_measured_gives_nothing(cube):
    assert factorial(cube, part="test", metric="quality") == ()
    assert factorial(cube, part="train", metric="loss") == ()


@pytest.fixture(scope="module")
def rates():
    path = Path(__file__).parents[2] / "benchmarks" / "design_coverage.py"
    spec = importlib.util.spec_from_file_location("design_coverage", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def margin(percent, studies=STUDIES):
    return 3 * 100 * math.sqrt(percent / 100 * (1 - percent / 100) / studies)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("mix", ["seeds weak", "seeds dominate"])
def test_main_effects_and_interactions_cover_95_percent(rates, mix, seeds):
    got = rates.factorial(rates.MIXES[mix], seeds, STUDIES, np.random.default_rng(seeds))
    for order in (1, 2, 3):
        assert 95 - margin(95) <= got[f"order_{order}"] <= 98 + margin(98)
    assert got["any_false"] <= 5 + margin(5)


def test_the_simulated_cube_is_a_design(rates):
    assert len(list(contrasts(rates.CUBE, rates.CUBE.arms))) == 7
