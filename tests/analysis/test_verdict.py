"""The verdict follows from the intervals, whatever they are."""

from dataclasses import replace

import pytest

from neftune.analysis.effects import find_effects, study_effects
from neftune.analysis.judging import better_side, chosen_end, harm_state
from neftune.analysis.statistics import Component, critical_value
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
    """The effects with the interval of some replaced, their variances to match."""
    chosen = find_effects(effects, **wanted)
    assert chosen
    return tuple(with_interval(e, low, high) if e in chosen else e for e in effects)


def with_interval(effect, low, high):
    scale = (high - low) / (effect.high - effect.low) if effect.high > effect.low else 1.0
    parts = tuple(Component(scale**2 * p.variance, p.freedom, scale**2 * p.subtracted) for p in effect.components)
    error = scale * effect.standard_error
    return replace(effect, estimate=(low + high) / 2, low=low, high=high, standard_error=error, components=parts)


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
    assert "This sample could have seen an effect of about" in found.sentence


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
    (reason,) = [r for r in found.reasons if r.startswith("False facts in world=0")]
    said = {
        "harmful": "is worse than the tolerance",
        "use": "is ruled out" if high <= tolerance else "is not clearly worse",
    }
    assert said[kind] in reason


def test_a_harm_of_a_metric_where_higher_is_better_points_down():
    decision = Decision(harm_by=["closed_correct"], harm_tolerance={"closed_correct": 0.05})
    study = make_study(planted=GOOD, decision=decision)
    wanted = {"part": "test", "arm": "nsr=0.6", "metric": "closed_correct"}
    assert decide(study, moved(study_effects(study), **wanted, low=-0.3, high=-0.06)).kind == "harmful"
    assert decide(study, moved(study_effects(study), **wanted, low=0.06, high=0.3)).kind == "use"


def test_use_must_clear_what_the_luckiest_arm_may_reach_with_these_seeds():
    study = make_study(judge=False, planted=GOOD)
    where = {"part": "test", "arm": "nsr=0.6", "metric": "loss"}
    effects = study_effects(study)
    narrow = (Component(1e-6, 2), Component(1e-9, 59, 1e-9))  # What varies, varies between seeds.
    effects = tuple(
        replace(e, components=narrow, standard_error=0.001) if e in find_effects(effects, **where) else e
        for e in effects
    )
    wider = critical_value(narrow, 0.05, num_arms=3) / critical_value(narrow, 0.05)
    assert wider == pytest.approx(
        7.649 / 4.303, rel=1e-3
    )  # Student's t with 2 degrees of freedom at 0.05 / 3 and 0.05.
    effects = tuple(
        replace(e, low=-0.0090, estimate=-0.005, high=-0.0007) if e in find_effects(effects, **where) else e
        for e in effects
    )
    found = decide(study, effects)
    assert found.kind == "no evidence"
    assert "no more than the luckiest of 3 arms may reach with these seeds" in found.sentence
    assert all(better_side(e)[0] > 0 > chosen_end(e, Decision(), num_arms=3) for e in found.judged)
    assert all(chosen_end(e, Decision(), num_arms=1) == better_side(e)[0] for e in found.judged)
    assert decide(study, tuple(replace(e, high=-0.004) if e.high == -0.0007 else e for e in effects)).kind == "use"


@pytest.mark.parametrize(
    ("low", "high", "state", "kind"),
    [(-0.1, 0.19, "ruled out", "use"), (-0.1, 0.21, "open", "no evidence"), (0.21, 0.3, "worse", "harmful")],
)
def test_a_rule_may_want_every_harm_ruled_out(low, high, state, kind):
    decision = Decision(harm_by=["false_facts"], harm_tolerance={"false_facts": 0.2}, harm_ruled_out=True)
    study = make_study(planted=GOOD, decision=decision)
    effects = moved(study_effects(study), part="test", arm="nsr=0.6", metric="false_facts", low=low, high=high)
    found = decide(study, effects)
    assert {harm_state(effect, decision) for effect in found.harms} == {state}
    assert found.kind == kind
    assert ("Harm beyond the tolerance is not ruled out: false facts in world=0" in found.sentence) == (state == "open")
    assert "every harm is ruled out" in found.rule
    mild = decision.model_copy(update={"harm_ruled_out": False})
    mildly = decide(make_study(planted=GOOD, decision=mild), effects)
    assert mildly.kind == ("harmful" if state == "worse" else "use")
    if state != "worse":
        assert f"in {2 if state == 'ruled out' else 0} of 2 checks" in mildly.sentence


def test_a_harm_that_never_varied_is_not_ruled_out():
    decision = Decision(harm_by=["false_facts"], harm_tolerance={"false_facts": 0.2})
    study = make_study(planted=GOOD, decision=decision)
    effects = tuple(
        replace(e, estimate=0.0, low=0.0, high=0.0, standard_error=0.0) if e.metric == "false_facts" else e
        for e in study_effects(study)
    )
    (reason, _) = [r for r in decide(study, effects).reasons if r.startswith("False facts")]
    assert "was not seen, and is not ruled out; fewer than 4.9% of further examples would differ" in reason


def test_no_evidence_says_how_many_seeds_would_settle_it():
    found = verdict(planted={arm: Planted(loss=-0.012) for arm in ("nsr=0.3", "nsr=0.6", "nsr=1.0")})
    assert found.kind == "no evidence"
    assert any(reason.startswith("With 6 seeds an effect of about 0.0") for reason in found.reasons)
    assert any("seeds would settle it" in reason for reason in found.reasons)
    assert not any("With 6 seeds" in reason for reason in verdict(planted=GOOD).reasons)


def test_the_other_arms_are_corrected_for_their_number():
    reasons = verdict(planted=GOOD | {"nsr=0.3": Planted(), "nsr=1.0": Planted()}).reasons
    assert any("Had all 3 arms been judged at once, with Holm's correction, nsr=0.6 (p = " in r for r in reasons)
    assert any("Holm's correction, none would be" in r for r in verdict(planted=NONE).reasons)
    assert any("One noisy arm was there to choose" in r for r in verdict(planted=GOOD, arms=["nsr=0.6"]).reasons)


def test_three_blocks_are_also_read_as_a_sample():
    reasons = verdict(planted=GOOD, blocks=["world=0", "world=1", "world=2"]).reasons
    assert any(r.startswith("Over 3 blocks as a sample") and "2 degrees of freedom" in r for r in reasons)
    assert any("2 blocks say next to nothing about another one" in r for r in verdict(planted=GOOD).reasons)


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
    together = decide(study, moved(effects, **where, metric="lc_win_rate", low=2, high=4))
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


def test_a_win_rate_is_said_to_be_against_whom_it_is():
    result = make_study()
    effects = study_effects(result)
    plain = decide(result, effects)
    assert "win rate against the baseline differs from even" in plain.sentence
    quiet = "nsr=0, dropout=0.1"
    planned = [replace(run, against=quiet) if run.arm == plain.arm else run for run in result.planned]
    planned = [replace(run, arm=quiet) if run.is_baseline else run for run in planned]
    other = replace(result, planned=tuple(planned))
    said = decide(other, study_effects(other)).sentence
    assert f"win rate against {quiet} differs from even" in said
