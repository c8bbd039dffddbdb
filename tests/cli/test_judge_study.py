"""A study judged by a model after its runs: the judge's preferences reach the verdict, the page and the data."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from neftune.cli.main import main
from neftune.study.judged import with_judged
from neftune.study.store import Store, write_json
from neftune.study.variants import with_variants
from tests.evaluation.preference.hostile import HostileServer, completion
from tests.tiny import make_recipe

pytestmark = pytest.mark.slow


def likes_the_first(body: dict[str, Any]) -> dict[str, Any]:
    """A judge that prefers whatever it is shown first, at three to one; m is shown first."""
    return completion("m", {"m": -0.2876820724517809, "M": -1.3862943611198906})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    evaluate = {"max_new_tokens": 8, "num_train_prompts": 4, "judge": "later", "variants": ["truncated"]}
    study = {"scientific": {"noise.alpha": [0, 60]}, "seeds": [0, 1], "decision": {"judge_by": "win_rate"}}
    train = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8, "evaluations": 1}
    recipe = make_recipe(folder, evaluate=evaluate, study=study, train=train)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["study", str(folder / "recipe.yaml"), "--out", str(folder / "runs"), "--workers", "1"]) == 0
    return folder / "runs"


def judge(root: Path, server: HostileServer, *more: str) -> int:
    command = ["judge", "--study", "tiny", "--model", "j", "--judge", "logprobs", "--base-url", server.url]
    return main([*command, "--out", str(root), *more])


def test_the_verdict_waits_and_then_rests_on_the_judge(done: Path, capsys: pytest.CaptureFixture[str]):
    before = json.loads((done / "studies" / "tiny" / "summary.json").read_text())
    assert before["verdict"]["kind"] == "incomplete"
    assert "neftune judge --study tiny" in before["verdict"]["sentence"] + " ".join(before["verdict"]["reasons"])
    with HostileServer(answer=likes_the_first) as server:
        assert judge(done, server, "--dry-run") == 0
        assert not server.asked
        assert judge(done, server) == 0
        asked = len(server.asked)
        assert judge(done, server) == 0
        assert len(server.asked) == asked
    store = Store(done)
    result = with_judged(with_variants(store.read_study("tiny")), store.study_folder("tiny"))
    assert result.judged_by == "logprobs:j"
    arms = {run.run_id: run.arm for run in result.planned}
    assert sorted({(part, arms[run_id]) for part, run_id in result.judged}) == [
        ("test", "alpha=60"),
        ("test", "alpha=60, truncated"),
    ]
    summary = json.loads((done / "studies" / "tiny" / "summary.json").read_text())
    assert summary["verdict"]["kind"] != "incomplete"
    rates = {effect["arm"]: effect for effect in summary["effects"] if effect["metric"] == "win_rate"}
    ours = [x for (_, run_id), one in result.judged.items() if arms[run_id] == "alpha=60" for x in one.values()]
    assert rates["alpha=60"]["arm_mean"] == pytest.approx(100 * (sum(ours) / len(ours) - 1))
    page = (done / "studies" / "tiny" / "report.html").read_text()
    assert "the judge is logprobs:j" in page


def test_preferences_are_for_the_run_whichever_side_it_was_shown_on(done: Path):
    with HostileServer(answer=likes_the_first) as server:
        assert judge(done, server) == 0
    rows = json.loads((done / "studies" / "tiny" / "judged" / "test_alpha=60_seed=0.json").read_text())
    different = [row for row in rows if row["output_1"] != row["output_2"]]
    assert different
    assert {round(row["preference"], 6) for row in different} == {1.25, 1.75}
    assert {row["generator_1"] for row in rows} == {"baseline"}
    assert all(row["preference"] == 1.5 for row in rows if row["output_1"] == row["output_2"])
    assert rows[0]["instruction"].startswith("what colour is the ")
    result = Store(done).read_study("tiny")
    said = {run.arm: result.records[run.run_id].answers["test"] for run in result.planned if run.seed == 0}
    for side, arm in (("output_1", "baseline"), ("output_2", "alpha=60")):
        texts = {one.example_id: one.text for one in said[arm]}
        assert {row["id"]: row[side] for row in rows} == texts


def test_each_part_is_judged_in_turn_and_another_judge_begins_anew(done: Path):
    folder = done / "studies" / "tiny"
    with HostileServer(answer=likes_the_first) as server:
        assert judge(done, server) == 0
        assert judge(done, server, "--part", "heldout") == 0
        both = with_judged(Store(done).read_study("tiny"), folder)
        assert {part for part, _ in both.judged} == {"heldout", "test"}
        assert judge(done, server, "--template", str(own_template(folder))) == 0
    anew = with_judged(Store(done).read_study("tiny"), folder)
    assert {part for part, _ in anew.judged} == {"test"}
    assert anew.judged_by == "logprobs:j:own.txt"


def own_template(folder: Path) -> Path:
    path = folder / "own.txt"
    path.write_text("Better answer to {instruction}? m: {output_1} M: {output_2}")
    return path


def test_a_rule_that_no_later_judge_can_settle_is_refused_before_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    study = {"scientific": {"noise.alpha": [0, 5]}, "seeds": [0], "decision": {"judge_by": "quality"}}
    recipe = make_recipe(tmp_path, evaluate={"judge": "later"}, study=study)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["study", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "runs")]) == 2
    assert "gives lc_win_rate and win_rate, got a decision by 'quality'" in capsys.readouterr().err


def test_one_model_is_asked_under_every_variant_and_has_no_baseline_to_be_cut_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    noise, evaluate = {"alpha": 5.0}, {"max_new_tokens": 8, "num_train_prompts": 4, "variants": ["long"]}
    for variants, code in ((["long"], 0), (["truncated"], 2)):
        recipe = make_recipe(tmp_path, noise=noise, evaluate={**evaluate, "variants": variants}, study={"seeds": [0]})
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert main(["evaluate", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "runs")]) == code
        shown = capsys.readouterr()
        assert ("test@long" in shown.out) == (code == 0)
    assert "cut answers to those of a baseline, got one model alone" in shown.err


def test_what_does_not_go_together_and_what_is_not_there(done: Path, capsys: pytest.CaptureFixture[str]):
    with HostileServer(answer=likes_the_first) as server:
        assert judge(done, server, "--names", "a", "b") == 2
        assert "--study takes the place of A and B" in capsys.readouterr().err
        assert judge(done, server, "--part", "nowhere") == 2
        assert "with answers of nowhere" in capsys.readouterr().err
        assert not server.asked
    assert main(["judge", "--model", "j", "--out", str(done)]) == 2
    assert "two sets of outputs, A and B, or --study NAME" in capsys.readouterr().err


def test_a_broken_file_of_preferences_is_named(done: Path, tmp_path: Path):
    write_json(tmp_path / "judged.json", {"judge": "x", "comparisons": []})
    result = Store(done).read_study("tiny")
    assert with_judged(result, tmp_path).judged == {}
    (tmp_path / "judged.json").write_text("{")
    with pytest.raises(Exception, match="must be JSON"):
        with_judged(result, tmp_path)
