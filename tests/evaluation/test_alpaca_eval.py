"""AlpacaEval's own length control: its published weights, and alpaca-eval itself on synthetic judgements."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neftune.errors import DataError
from neftune.evaluation import alpaca_eval
from neftune.evaluation.alpaca_eval import official_win_rate, rate_from_weights
from neftune.evaluation.alpaca_eval_tables import Gamed, Weights, read_difficulties, read_gamed, read_weights
from neftune.evaluation.length_control import length_controlled_win_rate
from neftune.evaluation.winrate import discrete_win_rate, win_rate
from tests.published_boards import board

SCRIPT = Path(__file__).parents[1] / "reference" / "alpaca_eval_oracle.py"
ORACLE: dict[str, Any] = json.loads(SCRIPT.with_suffix(".json").read_text())
REQUIREMENTS = ("alpaca-eval==0.6.6", "setuptools<82", "scikit-learn<1.6")
REMAKE = "NEFTUNE_REMAKE_ORACLES"


@pytest.fixture
def gamed(tmp_path: Path) -> Gamed:
    path = tmp_path / "df_gamed.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ORACLE["gamed"][0])
        writer.writeheader()
        writer.writerows(ORACLE["gamed"])
    return read_gamed(path)


def sides(name: str) -> tuple[list[float | None], list[int], list[int], list[float]]:
    case = ORACLE["cases"][name]
    return case["preferences"], case["model_lengths"], case["baseline_lengths"], ORACLE["difficulty"]


def test_published_weights_give_the_published_rates(shared: Path):
    folder = shared / "data" / "alpaca_eval"
    difficulties = list(read_difficulties(folder / "derived_instruction_difficulty.csv").values())
    weights, published = read_weights(folder / "lc_glm_weights_ae2.csv"), board(folder, "ae2")
    errors = [
        abs(rate_from_weights(own, difficulties) - float(published[model]["length_controlled_winrate"]))
        for model, own in weights.items()
        if model in published
    ]
    assert len(errors) == 199
    assert max(errors) <= 0.25
    assert np.mean(errors) <= 0.02


def test_weights_compare_any_two_models():
    strong, weak, difficulties = Weights(-1, 1, 1), Weights(-1, 0.5, -1), [-1.0, 0.0, 2.0]
    there = rate_from_weights(strong, difficulties, baseline=weak)
    assert there == pytest.approx(100 - rate_from_weights(weak, difficulties, baseline=strong))
    assert there == pytest.approx(100 * np.mean([1 / (1 + math.exp(-2 - 0.5 * d)) for d in difficulties]))


@pytest.mark.parametrize("name", ORACLE["cases"])
def test_the_official_fit_is_alpaca_evals(name: str, gamed: Gamed):
    said = ORACLE["alpaca_eval"][name]
    got = official_win_rate(*sides(name), gamed=gamed)
    assert got.win_rate == pytest.approx(said["length_controlled_v1"], abs=0.05)
    assert got.label == "gamed prior"
    bare = official_win_rate(*sides(name), gamed=None)
    assert bare.win_rate == pytest.approx(said["length_controlled_noreg"], abs=0.05)
    assert bare.label == "no gamed prior"


@pytest.mark.parametrize("name", ORACLE["cases"])
def test_raw_rates_are_alpaca_evals(name: str):
    said, preferences = ORACLE["alpaca_eval"][name], sides(name)[0]
    got = win_rate(preferences)
    assert (got.win_rate, got.standard_error) == pytest.approx((said["win_rate"], said["standard_error"]), abs=1e-9)
    assert discrete_win_rate(preferences).win_rate == pytest.approx(said["discrete_win_rate"], abs=1e-9)
    counts = (got.num_wins, got.num_losses, got.num_draws, got.num_total)
    assert counts == tuple(said[key] for key in ("n_wins", "n_wins_base", "n_draws", "n_total"))


def test_the_plain_fit_lies_near_alpaca_evals_without_regularisation():
    # A penalty that cross-validation finds, and none, differ by less than a standard error where lengths overlap.
    for name, said in ORACLE["alpaca_eval"].items():
        got = length_controlled_win_rate(*sides(name))
        if not got.is_extrapolated:
            assert abs(got.win_rate - said["length_controlled_noreg"]) < 0.7
            assert got.standard_error > 1.2 * said["length_controlled_noreg_standard_error"]


def test_the_standard_error_is_the_bootstraps_under_a_fixed_penalty(gamed: Gamed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(alpaca_eval, "PENALTIES", np.array([1e4]))
    monkeypatch.setattr(alpaca_eval, "NUM_FOLDS", 2)
    # Always longer: the length weight rests on the gamed baselines alone.
    preferences, model, baseline, difficulty = map(np.array, sides("always longer"))
    rng = np.random.default_rng(3)
    rates = []
    for _ in range(150):
        drawn = rng.integers(0, len(model), len(model))
        again = official_win_rate(preferences[drawn], model[drawn], baseline[drawn], difficulty[drawn], gamed=gamed)
        rates.append(again.win_rate)
    got = official_win_rate(preferences, model, baseline, difficulty, gamed=gamed)
    assert got.standard_error == pytest.approx(np.std(rates, ddof=1), rel=0.2)


def test_wrong_tables_are_named(tmp_path: Path):
    def written(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    with pytest.raises(DataError, match=r"must be a file, got .*absent\.csv"):
        read_difficulties(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="must have rows, got none"):
        read_difficulties(written("idx,difficulty\n"))
    with pytest.raises(DataError, match=r"table.csv:3: .* must name each idx once, got '0' twice"):
        read_difficulties(written("idx,difficulty\n0,1\n0,2\n"))
    with pytest.raises(DataError, match=r"table.csv:2: difficulty must be a finite number, got 'hard'"):
        read_difficulties(written("idx,difficulty\n0,hard\n"))
    with pytest.raises(DataError, match=r"two columns.*got idx, a, b"):
        read_difficulties(written("idx,a,b\n0,1,2\n"))
    with pytest.raises(DataError, match=r"header's 2 columns, got 3"):
        read_difficulties(written("idx,difficulty\n0,1,2\n"))
    with pytest.raises(DataError, match=r"it lacks not_gamed_baseline.astype\(float\)"):
        read_weights(written(",np.tanh(std_delta_len),instruction_difficulty\nm,1,2\n"))
    columns = "index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    with pytest.raises(DataError, match="must be False in every row"):
        read_gamed(written(columns + "0,0.5,1,1,True\n"))
    with pytest.raises(DataError, match=r"a share from 0 to 1, got 1\.5"):
        read_gamed(written(columns + "0,1.5,1,1,False\n"))
    with pytest.raises(DataError, match="at least 5 judgements for its folds, got 4"):
        official_win_rate([1, 2, 1, 2], [1, 2, 3, 5], [3, 2, 2, 1], [0, 1, 2, 0], gamed=None)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(REMAKE not in os.environ, reason=f"installs alpaca-eval (0.7 GB) anew: set {REMAKE}=1")
def test_the_stored_verdicts_are_what_alpaca_eval_says():
    folder = Path.home() / ".cache" / "neftune-tests" / "alpaca-eval-0.6.6"
    python = folder / "bin" / "python"
    if not (folder / "whole").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", *REQUIREMENTS]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"alpaca-eval cannot be installed here: {done.stderr.strip()[-300:]}")
        (folder / "whole").touch()
    shown = subprocess.run([str(python), str(SCRIPT)], capture_output=True, text=True, check=True)
    made = json.loads(shown.stdout)
    for name, said in made["alpaca_eval"].items():
        assert said == pytest.approx(ORACLE["alpaca_eval"][name], abs=1e-3)
    assert made["cases"] == ORACLE["cases"]
