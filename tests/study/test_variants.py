"""Control variants become control arms beside the arm of their model."""

from dataclasses import replace

import pytest

from neftune.analysis.effects import find_effects, study_effects
from neftune.analysis.verdict import decide
from neftune.records import Answer, RunRecord, StudyResult, variant_part
from neftune.study.variants import with_variants
from tests.synthetic import make_study


def asked_again(record: RunRecord, name: str) -> RunRecord:
    """The record with its test answers, said twice, under a variant."""
    twice = tuple(replace(one, text=f"{one.text} {one.text}") for one in record.answers["test"])
    scores = record.scores["test"]
    values = {metric: numbers for metric, numbers in scores.values.items() if metric != "loss"}
    values["words"] = tuple(2 * number for number in values["words"])
    key = variant_part("test", name)
    return replace(
        record,
        answers={**record.answers, key: twice},
        scores={**record.scores, key: replace(scores, values=values)},
    )


def study_with(variants: list[str], *, missing: tuple = ()) -> StudyResult:
    result = make_study(blocks=("",), arms=("nsr=0.6",), seeds=(0, 1), judge=False, missing=missing)
    records = {}
    for run in result.planned:
        record = result.records.get(run.run_id)
        if record is None:
            continue
        config = {**record.config, "evaluate": {**record.config["evaluate"], "variants": variants}}
        record = replace(record, config=config)
        records[run.run_id] = asked_again(record, "long") if run.is_baseline and "long" in variants else record
    return replace(result, records=records)


def test_an_asked_variant_is_a_control_arm_of_the_baseline():
    expanded = with_variants(study_with(["long"]))
    made = [run for run in expanded.planned if "@" in run.run_id]
    assert [(run.arm, run.seed, run.is_control, run.is_baseline) for run in made] == [
        ("baseline, long", 0, True, False),
        ("baseline, long", 1, True, False),
    ]
    record = expanded.records[made[0].run_id]
    assert tuple(record.scores) == tuple(record.answers) == ("test",)
    assert record.history == ()
    assert record.noise is None
    assert not any("@" in part for one in expanded.records.values() for part in one.scores)
    (words,) = find_effects(study_effects(expanded), arm="baseline, long", part="test", metric="words")
    assert words.is_control
    assert words.arm_mean == 2 * words.baseline_mean
    assert decide(expanded, study_effects(expanded)) == decide(study_with([]), study_effects(study_with([])))


def test_noisy_answers_are_cut_to_the_baselines_and_judged_again():
    result = study_with(["truncated"])
    expanded = with_variants(result)
    arms = list(dict.fromkeys(run.arm for run in expanded.planned if run.is_control))
    assert "nsr=0.6, truncated" in arms
    assert not any(arm.startswith(("baseline,", "equal")) and arm.endswith("truncated") for arm in arms)
    plan = {(run.arm, run.seed): expanded.records[run.run_id] for run in expanded.planned}
    theirs = by_id(plan["baseline", 0])
    whole, cut = by_id(plan["nsr=0.6", 0]), by_id(plan["nsr=0.6, truncated", 0])
    assert cut.keys() == whole.keys()
    shortened = 0
    for key, answer in cut.items():
        assert len(answer.text) <= max(len(theirs[key].text.strip()), len(answer.text) if answer == whole[key] else 0)
        assert whole[key].text.startswith(answer.text)
        if len(whole[key].text) > len(theirs[key].text):
            shortened += 1
            assert not answer.ended
    assert shortened
    scores = plan["nsr=0.6, truncated", 0].scores["test"]
    assert scores.values["words"] == tuple(float(len(one.text.split())) for one in cut.values())
    assert "tokens" not in scores.values


def test_without_its_baseline_a_run_has_no_cut_twin():
    expanded = with_variants(study_with(["truncated"], missing=(("baseline", "", 0),)))
    assert [(run.arm, run.seed) for run in expanded.planned if "truncated" in run.arm] == [("nsr=0.6, truncated", 1)]


@pytest.mark.parametrize("variants", [[], ["long"]])
def test_a_study_stays_as_it_is_beside_its_variants(variants: list[str]):
    result = study_with(variants)
    expanded = with_variants(result)
    kept = [run for run in expanded.planned if "@" not in run.run_id]
    assert tuple(kept) == result.planned
    for run in result.planned:
        assert expanded.records[run.run_id].answers["test"] == result.records[run.run_id].answers["test"]


def by_id(record: RunRecord) -> dict[str, Answer]:
    return {one.example_id: one for one in record.answers["test"]}
