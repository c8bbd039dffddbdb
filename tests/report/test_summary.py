import json
import math

import pytest

from neftune.analysis.effects import find_effects
from neftune.report.summary import WIDTH, summary_data, terminal_summary
from tests.report.odd_studies import ODD
from tests.synthetic import make_study


def test_the_terminal_summary_opens_with_the_verdict(study, evidence):
    text = terminal_summary(study)
    assert f"VERDICT  {evidence.verdict.sentence[:30]}" in text
    assert "3 seeds" in text
    assert "LC win" in text


@pytest.mark.parametrize("odd", list(ODD))
def test_any_study_has_a_summary_in_plain_ascii_of_100_columns(odd):
    study = ODD[odd]()
    text = terminal_summary(study)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(ord(c) >= 32 or c == "\n" for c in text)
    if odd != "hostile":
        assert text.isascii()
    json.dumps(summary_data(study), allow_nan=False)


def test_failed_runs_are_named_with_their_reason():
    text = terminal_summary(make_study(failed=[("nsr=0.6", "world=1", 2)]))
    assert "nsr=0.6, world 1, seed 2: DivergedError: loss must stay finite" in text.replace("\n    ", " ")


def test_the_data_hold_every_effect_and_every_run(study, evidence):
    data = json.loads(json.dumps(summary_data(study), allow_nan=False))
    assert data["verdict"]["kind"] == evidence.verdict.kind
    assert len(data["effects"]) == len(evidence.effects)
    assert [run["run_id"] for run in data["runs"]] == [row.run.run_id for row in evidence.rows]
    effect = find_effects(evidence.effects, block="world=1", part="test", arm="nsr=1.0", metric="loss")[0]
    stored = next(
        e
        for e in data["effects"]
        if (e["block"], e["part"], e["arm"], e["metric"]) == ("world=1", "test", "nsr=1.0", "loss")
    )
    assert (stored["estimate"], stored["low"], stored["num_seeds"]) == (effect.estimate, effect.low, 3)


def test_noise_is_reported_for_every_noisy_run(study):
    for run in summary_data(study)["runs"]:
        assert (run["noise"] is None) == (run["alpha"] == 0)


def test_undefined_numbers_are_none():
    data = summary_data(make_study(seeds=(0,), blocks=("",), sizes={"train": 2, "heldout": 1, "test": 1}))
    numbers = [effect[key] for effect in data["effects"] for key in ("low", "high")]
    assert None in numbers
    assert not any(isinstance(n, float) and math.isnan(n) for n in numbers)


def test_runs_still_to_come_are_counted_not_listed():
    missing = [("nsr=0.3", block, seed) for block in ("world=0", "world=1") for seed in (0, 1, 2)]
    text = terminal_summary(make_study(missing=missing))
    assert "! 6 runs not finished" in text
    assert text.count("not run yet") == 1
