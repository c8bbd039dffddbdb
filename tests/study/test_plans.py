"""A study's plan may grow; what it replaces is kept, and another study's is never replaced."""

from pathlib import Path
from typing import Any

import pytest

from neftune.errors import ConfigError, StoreError
from neftune.records import PlannedRun
from neftune.study.plans import changes, planned_ids
from neftune.study.store import Store
from tests.stub_runs import stub_record

STUDY: dict[str, Any] = {"seeds": [0], "decision": {"min_effect": 0}}
RECIPE: dict[str, Any] = {"name": "s", "question": "?", "train": {"epochs": 3.0}, "study": STUDY}


def run(run_id: str, seed: int = 0) -> PlannedRun:
    return PlannedRun(run_id, "baseline", "", seed, {"seed": seed, "noise": {"alpha": 0}})


def recipe(**study: Any) -> dict[str, Any]:
    return {**RECIPE, "study": {**STUDY, **study}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A study of two runs, one of them finished."""
    store = Store(tmp_path)
    store.write_study("s", recipe(), [run("a"), run("b", 1)])
    store.write_result(stub_record(run("a")))
    return store


def earlier(store: Store) -> list[Path]:
    return sorted(store.study_folder("s").glob("plan-*.json"))


def test_more_seeds_take_the_plans_place(store: Store):
    store.write_study("s", recipe(seeds=[0, 1, 2]), [run("a"), run("b", 1), run("c", 2)])
    assert [one.run_id for one in store.read_study("s").planned] == ["a", "b", "c"]
    assert not earlier(store)
    assert not store.read_plan("s").earlier


def test_other_settings_are_refused_once_a_run_is_finished(store: Store):
    before = (store.study_folder("s") / "plan.json").read_bytes()
    other = {**recipe(), "train": {"epochs": 1.0}}
    with pytest.raises(
        ConfigError, match=r"'s' .* other settings: train\.epochs \(3\.0 before, 1\.0 now\).*--name s-2"
    ):
        store.write_study("s", other, [run("x")])
    assert (store.study_folder("s") / "plan.json").read_bytes() == before


def test_other_settings_are_no_harm_while_nothing_is_finished(tmp_path: Path):
    store = Store(tmp_path)
    store.write_study("s", recipe(), [run("a")])
    store.write_study("s", {**recipe(), "train": {"epochs": 1.0}}, [run("x")])
    assert planned_ids(store.study_folder("s")) == {"x"}


def test_finished_runs_that_drop_out_stay_planned_in_the_earlier_plan(store: Store):
    store.write_study("s", recipe(seeds=[1]), [run("b", 1)])
    assert len(earlier(store)) == 1
    assert planned_ids(store.study_folder("s")) == {"a", "b"}
    assert planned_ids(store.study_folder("s"), earlier=False) == {"b"}
    assert store.read_plan("s").earlier == (
        "1 run was finished by an earlier plan and not part of this one: study.seeds changed.",
    )


def test_other_code_gives_other_runs_and_says_so(store: Store):
    store.write_study("s", recipe(), [run("a2"), run("b2", 1)])
    (said,) = store.read_plan("s").earlier
    assert said.endswith("code, libraries, data or weights are others, or an arm was left out.")


def test_a_plan_that_will_grow_again_says_nothing_and_forgets_nothing(store: Store):
    store.write_study("s", recipe(), [run("b", 1)], to_come=["confirm"])
    assert not store.read_study("s").notes
    assert planned_ids(store.study_folder("s")) == {"a", "b"}
    store.write_study("s", recipe(), [run("a"), run("b", 1)], notes=["said"])
    assert store.read_study("s").notes == ("said",)


def test_a_rule_changed_after_the_first_result_is_said(store: Store):
    changed = recipe(decision={"min_effect": 0.1})
    store.write_study("s", changed, [run("a"), run("b", 1)])
    store.write_study("s", changed, [run("a"), run("b", 1), run("c", 2)])
    assert store.read_plan("s").earlier == (
        "The rule was changed after 1 run was finished: study.decision.min_effect from 0 to 0.1.",
    )
    assert len(earlier(store)) == 1


def test_a_setting_that_an_older_version_lacked_is_no_change():
    assert changes({"train": {"epochs": 3}}, {"train": {"epochs": 3, "new": 1}, "other": {}}) == {}
    assert changes({"study": {"scientific": {"a": [0]}}}, {"study": {"scientific": {"b": [0]}}}) == {
        "study.scientific": ({"a": [0]}, {"b": [0]})
    }


def test_a_broken_plan_is_planned_anew(store: Store):
    path = store.study_folder("s") / "plan.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"plan\.json must be JSON"):
        store.read_study("s")
    store.write_study("s", recipe(), [run("a"), run("b", 1)])
    assert set(store.read_study("s").records) == {"a"}


def test_another_regularizer_is_another_setting():
    before, now = ({"train": {"regularizers": one}} for one in ({}, {"dropout": 0.1}))
    assert changes(before, now) == {"train.regularizers": ({}, {"dropout": 0.1})}
