import json
from dataclasses import replace

from neftune.report.embed import json_for_script
from neftune.report.outputs import outputs_payload
from neftune.report.overview import Overview
from tests.synthetic import BASELINE, make_study

SMALL = {"train": 4, "heldout": 4, "test": 6}


def test_every_answer_is_there_once_and_in_its_place(study):
    payload = json.loads(json_for_script(outputs_payload(Overview(study))))
    texts = payload["texts"]
    assert len(texts) == len(set(texts))
    planned = {(run.arm, run.block, run.seed): run.run_id for run in study.planned}
    checked = 0
    for group in payload["groups"]:
        for run in group["runs"]:
            arm = payload["arms"][run["arm"]]["name"]
            record = study.records[planned[arm, group["block"], run["seed"]]]
            answers = {answer.example_id: answer for answer in record.answers[group["part"]]}
            for example, place in zip(group["examples"], run["text"], strict=True):
                answer = answers[example["id"]]
                assert (texts[place], texts[example["prompt"]]) == (answer.text, answer.prompt)
                assert texts[example["reference"]] == answer.reference
                checked += 1
    assert checked == sum(len(a) for record in study.records.values() for a in record.answers.values())


def test_wins_follow_the_judge_against_the_baseline_of_the_same_seed(study):
    payload = outputs_payload(Overview(study))
    planned = {(run.arm, run.block, run.seed): run.run_id for run in study.planned}
    group = next(g for g in payload["groups"] if g["part"] == "test")
    for run in group["runs"]:
        arm = payload["arms"][run["arm"]]["name"]
        mine, base = (
            study.records[planned[name, group["block"], run["seed"]]].scores["test"].values["quality"]
            for name in (arm, BASELINE)
        )
        expected = "".join("w" if a > b else "l" if a < b else "d" for a, b in zip(mine, base, strict=True))
        assert run["wins"] == ("-" * len(mine) if arm == BASELINE else expected)


def test_without_judge_or_baseline_nobody_wins():
    for study in (
        make_study(judge=False, sizes=SMALL),
        make_study(seeds=(0,), sizes=SMALL, missing=[(BASELINE, block, 0) for block in ("world=0", "world=1")]),
    ):
        payload = outputs_payload(Overview(study))
        assert {letter for group in payload["groups"] for run in group["runs"] for letter in run["wins"]} == {"-"}


def test_an_example_that_one_run_did_not_answer_is_marked_not_shifted():
    study = make_study(seeds=(0,), blocks=("",), sizes=SMALL, control=False)
    run_id = next(run.run_id for run in study.planned if run.arm == "nsr=0.6")
    record = study.records[run_id]
    cut = {**record.answers, "test": record.answers["test"][1:]}
    payload = outputs_payload(Overview(replace(study, records={**study.records, run_id: replace(record, answers=cut)})))
    group = next(g for g in payload["groups"] if g["part"] == "test")
    run = next(r for r in group["runs"] if payload["arms"][r["arm"]]["name"] == "nsr=0.6")
    assert run["text"][0] is None
    assert payload["texts"][run["text"][1]] == record.answers["test"][1].text
