"""Later stages follow from what earlier ones found, and from nothing else."""

import math
from dataclasses import replace
from typing import Any

import pytest

from neftune.analysis.choosing import HeldOut
from neftune.analysis.effects import study_effects
from neftune.analysis.verdict import decide
from neftune.config import Recipe, RunConfig
from neftune.errors import StudyError
from neftune.recipe import validate
from neftune.records import PlannedRun, RunRecord, Scores, StudyResult
from neftune.report.summary import terminal_summary
from tests.staged import Loss, plan_of, play, record_of


def recipe_of(study: dict[str, Any], **sections: Any) -> Recipe:
    return validate(Recipe, {"name": "r", "study": study, **sections}, source="test")


def names(result: StudyResult, stage: str) -> list[str]:
    return list(dict.fromkeys(run.arm for run in result.planned if run.stage == stage))


def alpha(config: RunConfig) -> float:
    return config.noise.alpha or 0.0


TUNED = {
    "scientific": {"noise.alpha": [0, 5]},
    "nuisance": {"train.learning_rate": [1e-4, 1e-3, 1e-2]},
    "tune_seeds": [70, 71],
    "seeds": [0, 1],
}


def best_rate_depends_on_the_noise(config: RunConfig) -> float:
    best = 1e-3 if alpha(config) else 1e-4
    return 2 + abs(math.log10(config.train.learning_rate / best)) / 10


def test_every_arm_tries_every_nuisance_setting_and_keeps_its_own_best():
    states, result = play(recipe_of(TUNED), best_rate_depends_on_the_noise)
    assert [state.to_come for state in states] == [("main",), ()]
    tune = [run for run in result.planned if run.stage == "tune"]
    assert len(tune) == 2 * 3 * 2
    tried = {(run.arm, run.seed, run.config["train"]["learning_rate"]) for run in tune}
    assert tried == {
        (arm, seed, rate) for arm in ("baseline", "alpha=5") for seed in (70, 71) for rate in (1e-4, 1e-3, 1e-2)
    }
    main = [run for run in result.planned if run.stage == "main"]
    assert {(run.arm, run.nuisance["train.learning_rate"]) for run in main} == {("baseline", 1e-4), ("alpha=5", 1e-3)}
    assert {run.config["train"]["learning_rate"] for run in main if run.arm == "alpha=5"} == {1e-3}
    assert {run.seed for run in main} == {0, 1}


def test_tuning_asks_the_held_out_part_alone():
    settings = {"evaluate": {"variants": ["held_back=8"], "max_new_tokens": 64, "judge": "facts"}}
    _, result = play(recipe_of(TUNED, **settings), best_rate_depends_on_the_noise)
    for run in result.planned:
        evaluate = run.config["evaluate"]
        assert evaluate["parts"] == (["heldout"] if run.stage == "tune" else ["train", "heldout", "test"])
        assert evaluate["variants"] == ([] if run.stage == "tune" else ["held_back=8"])


def test_a_choice_at_the_edge_of_what_was_tried_is_noted():
    _, result = play(recipe_of(TUNED), best_rate_depends_on_the_noise)
    assert any("baseline: the best setting, learning_rate=0.0001, is at the edge" in note for note in result.notes)
    assert not any(note.startswith("alpha=5") for note in result.notes)


def test_a_setting_that_fails_with_one_seed_is_not_chosen():
    def loss(config: RunConfig) -> float | None:
        fails = config.train.learning_rate == 1e-3 and config.seed == 71
        return None if fails else best_rate_depends_on_the_noise(config)

    _, result = play(recipe_of(TUNED), loss)
    rates = {run.arm: run.nuisance["train.learning_rate"] for run in result.planned if run.stage == "main"}
    assert rates["alpha=5"] in (1e-4, 1e-2)


def test_an_arm_whose_every_setting_fails_is_left_out_and_named():
    _, result = play(recipe_of(TUNED), lambda config: None if alpha(config) else 2.0)
    assert names(result, "main") == ["baseline"]
    assert any("alpha=5 was left out: every nuisance setting failed. DivergedError" in note for note in result.notes)
    with pytest.raises(StudyError, match=r"the baseline, which others are compared with.*got none of 3"):
        play(recipe_of(TUNED), lambda config: 2.0 if alpha(config) else None)


SEARCH = {
    "search": {"knob": "noise.alpha", "low": 0.1, "high": 100, "points": 4, "refine": 2},
    "seeds": [0, 1],
    "confirm_seeds": [100, 101, 102],
}


def valley(at: float) -> Loss:
    """The loss is least at one alpha; without noise it is that of alpha = 0.01."""
    return lambda config: 2 + abs(math.log10(max(alpha(config), 0.01) / at)) / 10


def test_a_search_is_spaced_by_the_logarithm_and_refined_around_the_best():
    states, result = play(recipe_of(SEARCH), valley(3.0))
    first = [run.arm for run in states[0].planned if run.seed == 0]
    assert first == ["baseline", "alpha=0.1", "alpha=1", "alpha=10", "alpha=100"]
    main = names(result, "main")
    # best 1 (log distance .48; 10 has .52): then between its neighbours, and once more around 3.16
    assert main[5:7] == ["alpha=0.316", "alpha=3.16"]
    assert set(main[7:]) == {"alpha=1.78", "alpha=5.62"}
    assert names(result, "confirm") == ["baseline", "alpha=3.16"]


def test_choices_are_made_on_the_held_out_part_alone():
    """An arm that is best on all other parts is not chosen."""
    planned = plan_of(recipe_of({"scientific": {"noise.alpha": [0, 5, 10]}})).planned

    def asked(run: PlannedRun) -> RunRecord:
        record = record_of(run, 2.0)
        scores = {
            part: Scores(one.example_ids, {"loss": tuple(value - (run.arm == best) for value in one.values["loss"])})
            for part, one in record.scores.items()
            for best in ["alpha=10" if part == "heldout" else "alpha=5"]
        }
        return replace(record, scores=scores)

    result = StudyResult({}, planned, {run.run_id: asked(run) for run in planned}, {})
    gains = HeldOut().gains(result, "loss")
    assert gains == {("", "alpha=5"): pytest.approx(0, abs=1e-3), ("", "alpha=10"): pytest.approx(1, abs=1e-3)}
    levels = {run.arm: HeldOut().level(result.records[run.run_id], "loss") for run in planned if run.seed == 0}
    assert max(levels, key=lambda arm: levels[arm]) == "alpha=10"


def test_before_the_confirmation_nothing_sees_the_test_part_and_after_it_seeds_are_fresh():
    _, result = play(recipe_of(SEARCH), valley(3.0))
    for run in result.planned:
        parts = run.config["evaluate"]["parts"]
        assert ("test" in parts) == (run.stage == "confirm")
        assert run.seed in ([100, 101, 102] if run.stage == "confirm" else [0, 1])


def test_blocks_refine_and_confirm_choices_of_their_own():
    def loss(config: RunConfig) -> float:
        return valley(3.0 if config.data.seed else 30.0)(config) or 0.0

    _, result = play(recipe_of({**SEARCH, "blocks": {"data.seed": [0, 1]}}), loss)
    confirmed = {
        run.block: run.setting["noise.alpha"] for run in result.planned if run.stage == "confirm" and run.is_noisy
    }
    assert confirmed == {"world=0": 31.6, "world=1": 3.16}
    assert names(result, "confirm") == ["baseline", "chosen noise"]
    verdict = decide(result, study_effects(result.at("confirm")))
    assert verdict.kind == "use", verdict
    assert sum("Judged on the test part with seeds 100, 101, 102" in reason for reason in verdict.reasons) == 2
    assert any("alpha=31.6, gain" in reason for reason in verdict.reasons)


def test_a_best_value_at_the_end_of_the_range_is_noted():
    _, result = play(recipe_of(SEARCH), valley(1000.0))
    assert any("alpha=100, is at the end of the range" in note for note in result.notes)


def test_the_verdict_rests_on_the_confirmation_alone():
    """An arm that was lucky where arms are chosen is judged without its luck."""

    def loss(config: RunConfig) -> float:
        lucky = alpha(config) == 10 and config.seed < 100
        return 2.0 - 0.5 * lucky

    _, result = play(recipe_of({**SEARCH, "search": {**SEARCH["search"], "refine": 0}}), loss)
    assert names(result, "confirm") == ["baseline", "alpha=10"]
    verdict = decide(result, study_effects(result.at("confirm")))
    assert verdict.kind == "no evidence"
    assert verdict.arm == "alpha=10"


def test_a_confirmed_factorial_arm_is_judged_against_the_same_arm_without_noise():
    study = {"scientific": {"noise.alpha": [0, 5], "train.weight_decay": [0, 0.1]}, "confirm_seeds": [9, 10]}

    def loss(config: RunConfig) -> float:
        return 2 - 0.1 * bool(alpha(config)) - 0.3 * bool(config.train.weight_decay)

    _, result = play(recipe_of(study), loss)
    confirm = result.at("confirm")
    assert names(result, "confirm") == ["alpha=0, weight_decay=0.1", "alpha=5, weight_decay=0.1"]
    effects = [one for one in study_effects(confirm) if one.part == "test" and one.metric == "loss"]
    assert [one.estimate for one in effects] == [pytest.approx(-0.1)]


def test_a_confirmed_run_keeps_the_nuisance_setting_of_its_own_arm():
    study = {**TUNED, "scientific": {"noise.alpha": [0, 5]}, "confirm_seeds": [100]}
    _, result = play(recipe_of(study), best_rate_depends_on_the_noise)
    rates = {run.arm: run.config["train"]["learning_rate"] for run in result.planned if run.stage == "confirm"}
    assert rates == {"baseline": 1e-4, "alpha=5": 1e-3}


def test_a_grid_confirms_one_arm_for_all_blocks_the_best_by_their_mean():
    gains = {(0, 5): 0.1, (0, 10): 0.3, (1, 5): 0.5, (1, 10): 0.2}
    study = {"scientific": {"noise.alpha": [0, 5, 10]}, "blocks": {"data.seed": [0, 1]}, "confirm_seeds": [100]}
    _, result = play(
        recipe_of({**study, "seeds": [0, 1]}), lambda config: 2 - gains.get((config.data.seed, int(alpha(config))), 0)
    )
    # In world 0 alone, 10 is better.
    assert names(result, "confirm") == ["baseline", "alpha=5"]


def test_an_arm_that_lost_a_run_is_not_confirmed():
    def loss(config: RunConfig) -> float | None:
        return None if alpha(config) == 10 and config.seed == 1 else 2 - alpha(config) / 100

    study = {"scientific": {"noise.alpha": [0, 5, 10]}, "confirm_seeds": [100], "seeds": [0, 1]}
    _, result = play(recipe_of(study), loss)
    assert names(result, "confirm") == ["baseline", "alpha=5"]


def test_a_factorial_confirms_the_best_arm_and_not_the_one_whose_noise_adds_most():
    study = {"scientific": {"noise.alpha": [0, 5], "train.weight_decay": [0, 0.1]}, "confirm_seeds": [9, 10]}

    def loss(config: RunConfig) -> float:
        noise, decay = bool(alpha(config)), bool(config.train.weight_decay)
        return 2 - 0.1 * noise - 0.3 * decay + 0.05 * noise * decay

    _, result = play(recipe_of(study), loss)
    assert names(result, "confirm") == ["alpha=0, weight_decay=0.1", "alpha=5, weight_decay=0.1"]


def test_without_confirmation_a_factorial_chooses_the_best_and_judges_its_noise():
    study = {"scientific": {"noise.alpha": [0, 5], "train.weight_decay": [0, 0.1]}}

    def loss(config: RunConfig) -> float:
        noise, decay = bool(alpha(config)), bool(config.train.weight_decay)
        return 2 - 0.1 * noise - 0.3 * decay + 0.05 * noise * decay

    _, result = play(recipe_of(study), loss)
    verdict = decide(result, study_effects(result))
    # The noise adds more where there is no decay, but the best model has both.
    assert verdict.arm == "alpha=5, weight_decay=0.1"
    assert [one.estimate for one in verdict.judged] == [pytest.approx(-0.05)]
    assert "its loss differs from alpha=0, weight_decay=0.1 by -0.05" in verdict.sentence
    assert any(reason.startswith("Compared with alpha=0, weight_decay=0.1 throughout") for reason in verdict.reasons)
    assert "alpha=5, weight_decay=0.1 minus alpha=0, weight_decay=0.1, 95%" in terminal_summary(result)


def test_controls_are_twins_of_the_confirmed_arm():
    _, result = play(recipe_of({**SEARCH, "controls": [{}]}), valley(3.0))
    controls = [run for run in result.planned if run.is_control]
    by_id = {run.run_id: run for run in result.planned}
    assert {run.stage for run in controls} == {"confirm"}
    assert {(by_id[run.after or ""].arm, by_id[run.after or ""].seed) for run in controls} == {
        ("alpha=3.16", seed) for seed in (100, 101, 102)
    }


def test_the_plan_is_the_same_however_often_it_is_made():
    once, result = play(recipe_of(SEARCH), valley(3.0))
    again, _ = play(recipe_of(SEARCH), valley(3.0))
    assert once[-1] == again[-1]
    assert len({run.run_id for run in result.planned}) == len(result.planned)
    assert plan_of(recipe_of(SEARCH)).to_come == ("main", "confirm")


def test_no_verdict_before_the_confirmation_is_planned():
    states, result = play(recipe_of(SEARCH), valley(3.0))
    early = StudyResult(result.recipe, states[0].planned, result.records, {}, to_come=states[0].to_come)
    verdict = decide(early, study_effects(early))
    assert verdict.kind == "incomplete"
    assert "planned once" in verdict.sentence
