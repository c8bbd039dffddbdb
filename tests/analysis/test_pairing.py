"""Who is compared with whom."""

from dataclasses import replace

import numpy as np
import pytest

from neftune.analysis.pairing import missing_runs, pairings, score_matrix, shared_examples
from neftune.errors import DataError
from tests.synthetic import BASELINE, CONTROL, make_study


def with_scores(record, part, ids):
    scores = record.scores[part]
    keep = [scores.example_ids.index(example) for example in ids]
    values = {name: tuple(column[i] for i in keep) for name, column in scores.values.items()}
    return replace(record, scores={**record.scores, part: replace(scores, example_ids=tuple(ids), values=values)})


def test_every_arm_meets_its_blocks_baseline():
    made = pairings(make_study())
    assert len(made) == 2 * 4
    assert {pairing.seeds for pairing in made} == {(0, 1, 2)}
    assert [pairing.is_control for pairing in made if pairing.arm == CONTROL] == [True, True]
    for pairing in made:
        assert all(run.data_fingerprint == pairing.baseline[0].data_fingerprint for run in pairing.runs)


def test_only_seeds_of_both_arms_are_paired_and_missing_runs_are_named():
    study = make_study(failed=[("nsr=0.3", "world=0", 1)], missing=[(BASELINE, "world=1", 0)])
    seeds = {(pairing.block, pairing.arm): pairing.seeds for pairing in pairings(study)}
    assert seeds["world=0", "nsr=0.3"] == (0, 2)
    assert seeds["world=0", "nsr=0.6"] == (0, 1, 2)
    assert seeds["world=1", "nsr=0.6"] == (1, 2)
    lost = {(run.arm, run.block, run.seed): run.reason for run in missing_runs(study)}
    assert set(lost) == {("nsr=0.3", "world=0", 1), (BASELINE, "world=1", 0)}
    assert lost["nsr=0.3", "world=0", 1].startswith("DivergedError: loss must stay finite")
    assert lost[BASELINE, "world=1", 0] == "not run yet"


def test_a_study_without_results_has_no_pairing():
    study = make_study()
    assert pairings(replace(study, records={})) == ()


def test_scores_are_joined_by_example_not_by_position():
    pairing = pairings(make_study())[0]
    ids = pairing.runs[0].scores["test"].example_ids
    turned = with_scores(pairing.runs[0], "test", list(reversed(ids)))
    examples = shared_examples((*pairing.baseline, turned), "test")
    np.testing.assert_array_equal(
        score_matrix((turned,), examples, "loss"), score_matrix(pairing.runs[:1], examples, "loss")
    )


def test_examples_that_one_run_lacks_are_counted():
    pairing = pairings(make_study())[0]
    shorter = with_scores(pairing.runs[0], "test", pairing.runs[0].scores["test"].example_ids[5:])
    examples = shared_examples((*pairing.baseline, shorter), "test")
    assert (len(examples.ids), examples.num_unmatched) == (55, 5)


def test_runs_without_a_common_example_are_refused():
    first, second = pairings(make_study())[0], pairings(make_study())[4]
    assert first.block != second.block
    with pytest.raises(DataError, match="none in common on 'test'"):
        shared_examples((first.runs[0], second.runs[0]), "test")


def test_a_repeated_example_is_refused():
    record = pairings(make_study())[0].runs[0]
    ids = record.scores["test"].example_ids
    with pytest.raises(DataError, match="each example once, got 1 repeated"):
        shared_examples((with_scores(record, "test", [*ids, ids[0]]),), "test")


def test_parts_and_metrics_are_those_that_all_runs_have():
    study = make_study()
    pairing = pairings(study)[0]
    first = pairing.baseline[0]
    without_train = replace(first, scores={part: s for part, s in first.scores.items() if part != "train"})
    assert replace(pairing, baseline=(without_train, *pairing.baseline[1:])).parts() == ("heldout", "test")
    assert "quality" in pairing.metrics("test")
    assert not any(name.startswith("reference_") for name in pairing.metrics("test"))
