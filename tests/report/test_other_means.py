"""The judged effects by other means."""

from dataclasses import replace

import numpy as np
import pytest

from neftune.analysis.effects import find_effects
from neftune.analysis.mixed import mixed_effects
from neftune.analysis.multiplicity import holm, simultaneous_interval
from neftune.analysis.pairing import pairings, score_matrix, shared_examples
from neftune.analysis.power import seeds_needed
from neftune.report import other_means
from neftune.report.evidence import gather
from neftune.report.other_means import other_means_table, second_looks
from neftune.report.summary import summary_data
from tests.report.conftest import SMALL
from tests.report.design_studies import dose_study
from tests.synthetic import make_study


@pytest.fixture(scope="module")
def looks():
    return second_looks(gather(dose_study()))


def test_every_judged_effect_is_looked_at_again(looks):
    evidence = gather(dose_study())
    assert [look.effect for look in looks] == list(find_effects(evidence.effects, part="test", metric="loss"))
    data = summary_data(dose_study())["by_other_means"]
    assert [one["arm"] for one in data] == [look.effect.arm for look in looks]


def test_holm_and_the_joint_interval_are_over_the_arms_of_a_block(looks):
    expected = holm({look.effect.arm: look.effect.p_value for look in looks})
    for look in looks:
        assert look.num_arms == 4
        assert look.adjusted == expected[look.effect.arm]
        assert look.together == simultaneous_interval(look.effect, confidence=0.95, num_arms=4)


def test_the_model_and_the_flips_are_of_the_effects_own_table(looks):
    for pairing, look in zip(pairings(dose_study()), looks, strict=True):
        examples = shared_examples((*pairing.baseline, *pairing.runs), "test")
        ours, theirs = (score_matrix(runs, examples, "loss") for runs in (pairing.runs, pairing.baseline))
        assert look.mixed == mixed_effects(ours - theirs)
        assert look.mixed.estimate == pytest.approx(look.effect.estimate)
        same = np.abs((ours - theirs).mean(axis=1).sum()) > np.abs((ours - theirs).mean(axis=1)).sum() - 1e-12
        assert (look.flips.over_seeds.p_value == 2 / 2**5) == same
        assert look.flips.over_seeds.smallest == 2 / 2**5
        effect = look.effect
        assert look.seeds_to_settle == seeds_needed(effect.estimate, effect.components)


def test_the_table_says_what_so_few_seeds_allow():
    table = other_means_table(gather(make_study(sizes=SMALL)))
    said = " ".join(table.notes)
    assert "over 3 seeds cannot give a p-value below 0.25; six seeds" in said
    assert "Holm's correction: none differ clearly" in said
    assert "pseudo-values" in said
    assert all("(0.25)" in row[3].text for group in table.groups for row in group.rows)
    controls = [row for group in table.groups for row in group.rows if row[0].note == "control"]
    assert [row[2].text for row in controls] == ["control"] * 2


def test_the_arms_that_are_clear_together_are_named():
    said = other_means_table(gather(dose_study())).notes[0]
    assert "All 4 arms" in said
    assert "alpha=1.0, alpha=10.0, alpha=100.0 differ clearly" in said


def test_one_seed_and_one_example_leave_dashes():
    rows = (
        other_means_table(gather(make_study(seeds=(0,), judge=False, sizes={"train": 1, "heldout": 1, "test": 1})))
        .groups[0]
        .rows
    )
    assert [cell.text for cell in rows[0]][5:9] == ["–"] * 4


def test_too_many_effects_keep_the_chosen_arms(monkeypatch):
    monkeypatch.setattr(other_means, "MOST_EFFECTS", 2)
    evidence = gather(replace(dose_study()))
    found = second_looks(evidence)
    assert len(found) == 2
    assert evidence.verdict.arm in [look.effect.arm for look in found]
    assert "2 of 4 effects are shown" in other_means_table(evidence).notes[-1]
