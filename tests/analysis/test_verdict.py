"""The verdict follows from the intervals, whatever they are."""

from dataclasses import replace

import pytest

from neftune.analysis.effects import find_effects, study_effects
from neftune.analysis.verdict import decide
from neftune.config import Decision
from neftune.errors import ConfigError, DataError
from tests.synthetic import BASELINE, CONTROL, Planted, make_study

GOOD = {"nsr=0.6": Planted(loss=-0.3)}
BAD = {arm: Planted(loss=0.3) for arm in ("nsr=0.3", "nsr=0.6", "nsr=1.0")}
NONE = {arm: Planted() for arm in ("nsr=0.3", "nsr=0.6", "nsr=1.0", CONTROL)}


def verdict(**kwargs):
    study = make_study(**{"judge": False, **kwargs})
    return decide(study, study_effects(study))


def moved(effects, *, low, high, **wanted):
    """The effects with the interval of some replaced."""
    chosen = find_effects(effects, **wanted)
    assert chosen
    return tuple(replace(e, estimate=(low + high) / 2, low=low, high=high) if e in chosen else e for e in effects)


def test_use_states_arm_numbers_intervals_and_sample():
    found = verdict(planted=GOOD)
    assert (found.kind, found.arm, found.nsr) == ("use", "nsr=0.6", 0.6)
    assert found.alpha == {"world=0": pytest.approx(6.78), "world=1": pytest.approx(6.78)}
    assert found.sentence.startswith("Use nsr=0.6 (alpha 6.78): on the test part its loss differs from the baseline by")
    assert "3 seeds, 60 examples" in found.sentence
    for effect in found.judged:
        assert f"{effect.estimate:+.3f} nats/token, 95% interval [{effect.low:+.3f}, {effect.high:+.3f}]" in (
            found.sentence
        )
    assert (found.chosen_on, found.judged_on) == (("heldout", "loss"), ("test", "loss"))


def test_no_effect_is_no_evidence_and_says_what_could_be_seen():
    found = verdict(planted=NONE)
    assert found.kind == "no evidence"
    assert "easily missed with this sample" in found.sentence


def test_worse_everywhere_is_harmful():
    found = verdict(planted=BAD)
    assert found.kind == "harmful"
    assert found.sentence.startswith(f"Do not use {found.arm}")
    assert "no better than the baseline" in found.reasons[0]


def test_a_control_never_wins():
    found = verdict(planted={CONTROL: Planted(loss=-0.5), "nsr=0.6": Planted(loss=-0.3)})
    assert found.arm == "nsr=0.6"
    assert CONTROL not in [candidate.arm for candidate in found.candidates]


def test_the_arm_is_chosen_on_held_out_data_alone():
    study = make_study(judge=False, planted=GOOD)
    effects = moved(study_effects(study), part="test", arm="nsr=1.0", metric="loss", low=-2.0, high=-1.9)
    assert decide(study, effects).arm == "nsr=0.6"
    effects = moved(study_effects(study), part="heldout", arm="nsr=1.0", metric="loss", low=-2.0, high=-1.9)
    assert decide(study, effects).arm == "nsr=1.0"


def test_one_block_without_evidence_is_no_evidence():
    study = make_study(judge=False, planted=GOOD)
    effects = moved(
        study_effects(study), block="world=1", part="test", arm="nsr=0.6", metric="loss", low=-0.5, high=0.01
    )
    assert decide(study, effects).kind == "no evidence"


def test_one_block_on_the_bad_side_is_harmful():
    study = make_study(judge=False, planted=GOOD)
    effects = moved(
        study_effects(study), block="world=1", part="test", arm="nsr=0.6", metric="loss", low=0.01, high=0.5
    )
    assert decide(study, effects).kind == "harmful"


@pytest.mark.parametrize(("min_effect", "kind"), [(0.0, "use"), (0.2, "use"), (0.28, "no evidence")])
def test_the_interval_must_clear_the_smallest_effect_worth_having(min_effect, kind):
    assert verdict(planted=GOOD, decision=Decision(min_effect=min_effect)).kind == kind


@pytest.mark.parametrize(
    ("low", "high", "tolerance", "kind"),
    [
        (0.3, 0.5, 0.2, "harmful"),
        (0.1, 0.5, 0.2, "use"),
        (0.3, 0.5, 0.6, "use"),
        (0.01, 0.5, 0.0, "harmful"),
        (-0.5, -0.3, 0.0, "use"),
    ],
)
def test_a_harm_counts_when_its_whole_interval_is_beyond_the_tolerance(low, high, tolerance, kind):
    decision = Decision(harm_by=["false_facts"], harm_tolerance={"false_facts": tolerance})
    study = make_study(planted=GOOD, decision=decision)
    effects = moved(
        study_effects(study), block="world=0", part="test", arm="nsr=0.6", metric="false_facts", low=low, high=high
    )
    effects = moved(effects, block="world=1", part="test", arm="nsr=0.6", metric="false_facts", low=-0.1, high=0.1)
    found = decide(study, effects)
    assert found.kind == kind
    if kind == "harmful":
        assert "Clearly worse than tolerated: false facts +0.400" in found.sentence or tolerance == 0
    assert any("worse is not ruled out" in reason for reason in found.reasons)


def test_a_harm_of_a_metric_where_higher_is_better_points_down():
    decision = Decision(harm_by=["closed_correct"], harm_tolerance={"closed_correct": 0.05})
    study = make_study(planted=GOOD, decision=decision)
    wanted = {"part": "test", "arm": "nsr=0.6", "metric": "closed_correct"}
    assert decide(study, moved(study_effects(study), **wanted, low=-0.3, high=-0.06)).kind == "harmful"
    assert decide(study, moved(study_effects(study), **wanted, low=0.06, high=0.3)).kind == "use"


def test_one_seed_decides_nothing():
    found = verdict(planted=GOOD, seeds=[0])
    assert found.kind == "no evidence"
    assert "single seed" in found.sentence
    assert any(reason.startswith("One seed:") for reason in found.reasons)
    assert verdict(planted=BAD, seeds=[0]).kind == "no evidence"


def test_a_run_to_come_or_a_failed_baseline_makes_it_incomplete():
    found = verdict(planted=GOOD, missing=[("nsr=0.3", "world=1", 2)])
    assert (found.kind, found.arm) == ("incomplete", None)
    assert "nsr=0.3 in world=1, seed 2: not run yet" in found.sentence
    assert verdict(planted=GOOD, failed=[(BASELINE, "world=1", 2)]).kind == "incomplete"


def test_a_failed_arm_is_no_candidate_and_is_named():
    found = verdict(planted=GOOD, failed=[("nsr=0.6", "world=1", 2)])
    assert found.arm != "nsr=0.6"
    assert any("No candidate: nsr=0.6 in world=1, seed 2: DivergedError" in reason for reason in found.reasons)
    everything = [(arm, "world=0", 0) for arm in ("nsr=0.3", "nsr=0.6", "nsr=1.0")]
    assert verdict(failed=everything).kind == "incomplete"


def test_a_failed_control_stops_nothing():
    assert verdict(planted=GOOD, failed=[(CONTROL, "world=0", 0)]).kind == "use"


def test_raw_and_length_controlled_are_set_against_each_other():
    study = make_study(decision=Decision(choose_by="lc_win_rate", judge_by="lc_win_rate"))
    effects = study_effects(study)
    arm = decide(study, effects).arm
    where = {"part": "test", "arm": arm}
    effects = moved(effects, **where, metric="win_rate", low=5, high=20)
    apart = decide(study, moved(effects, **where, metric="lc_win_rate", low=-5, high=4))
    assert apart.kind == "no evidence"
    assert any("Raw and length-controlled disagree in world=0: raw +12.5 points" in r for r in apart.reasons)
    assert any("words instead of" in reason for reason in apart.reasons)
    together = decide(study, moved(effects, **where, metric="lc_win_rate", low=1, high=4))
    assert together.kind == "use"
    assert any("Raw and length-controlled agree" in reason for reason in together.reasons)


def test_a_metric_without_a_better_direction_cannot_decide():
    with pytest.raises(ConfigError, match="better direction, got 'words'"):
        verdict(decision=Decision(judge_by="words"))


def test_a_metric_that_was_not_measured_cannot_decide():
    with pytest.raises(DataError, match="needs the metric 'quality' on the test part"):
        verdict(decision=Decision(judge_by="quality"))


def test_the_rule_is_said_in_words():
    rule = verdict(decision=Decision(min_effect=0.02, harm_by=["loss"], harm_tolerance={"loss": 0.1})).rule
    assert "best loss on the held-out part" in rule
    assert "beyond 0.020 on the better side" in rule
    assert "loss (beyond 0.100)" in rule


def test_the_order_of_effects_does_not_matter():
    study = make_study(judge=False, planted=GOOD)
    effects = study_effects(study)
    assert decide(study, effects).sentence.split(";")[0] in decide(study, tuple(effects)).sentence
    assert decide(study, effects[::-1]).kind == decide(study, effects).kind
