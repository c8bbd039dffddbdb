"""Synthetic judgements, and what alpaca-eval itself says of them: run by a Python that has alpaca-eval 0.6.6.

    python -m venv oracle && oracle/bin/pip install alpaca-eval==0.6.6 'setuptools<82' 'scikit-learn<1.6'
    oracle/bin/python tests/reference/alpaca_eval_oracle.py > tests/reference/alpaca_eval_oracle.json

`df_gamed.csv`, which alpaca-eval would download, is made here too and put where its loader looks.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np

NUM_INSTRUCTIONS = 120


def judgements(rng, difficulty, *, ability, bias, longer, spread, decided=False, missing=0):
    """Preferences and lengths of a model: its log-odds are ability + difficulty + bias * tanh(standardised length)."""
    baseline = rng.integers(200, 2000, NUM_INSTRUCTIONS)
    model = np.maximum(1, baseline + rng.normal(longer, spread, NUM_INSTRUCTIONS).round().astype(int))
    delta = (model - baseline) / (model - baseline).std(ddof=1)
    share = 1 / (1 + np.exp(-(ability + difficulty + bias * np.tanh(delta) + rng.normal(0, 0.7, NUM_INSTRUCTIONS))))
    preferences = 1 + (share.round() if decided else share.round(4))
    if decided:
        preferences[:5], preferences[5:8] = 0, 1.5
    preferences = [None if index < missing else float(p) for index, p in enumerate(preferences)]
    return {"preferences": preferences, "model_lengths": model.tolist(), "baseline_lengths": baseline.tolist()}


def inputs():
    """The cases, and the gamed baselines' rows in the columns of `df_gamed.csv`."""
    rng = np.random.default_rng(20231009)
    difficulty = rng.normal(0, 1.2, NUM_INSTRUCTIONS).round(4)
    cases = {
        "even": judgements(rng, difficulty, ability=0, bias=0.8, longer=0, spread=400),
        "longer": judgements(rng, difficulty, ability=-0.5, bias=1.5, longer=600, spread=500),
        "always longer": judgements(rng, difficulty, ability=0.3, bias=1, longer=3000, spread=300),
        "shorter and weak": judgements(rng, difficulty, ability=-3, bias=0.5, longer=-150, spread=200),
        "dominant": judgements(rng, difficulty, ability=4, bias=1, longer=100, spread=300),
        "no bias": judgements(rng, difficulty, ability=0.5, bias=0, longer=200, spread=300),
        "decided, draws, missing": judgements(
            rng, difficulty, ability=0.2, bias=1, longer=200, spread=300, decided=True, missing=4
        ),
    }
    gamed = []
    for name, ability, longer in (("verbose", -0.2, 700), ("concise", -0.6, -900)):
        one = judgements(rng, difficulty, ability=ability, bias=1.6, longer=longer, spread=500)
        delta = np.subtract(one["baseline_lengths"], one["model_lengths"])
        gamed += [
            {
                "model": f"gamed_{name}",
                "index": index,
                "preference": round(one["preferences"][index] - 1, 4),
                "std_delta_len": round(float(delta[index] / delta.std(ddof=1)), 6),
                "instruction_difficulty": float(difficulty[index]),
                "not_gamed_baseline": False,
            }
            for index in range(NUM_INSTRUCTIONS)
        ]
    return {"difficulty": difficulty.tolist(), "cases": cases, "gamed": gamed}


def verdicts(made, folder):
    """What alpaca-eval says of each case, raw and by its three length-controlled models."""
    import pandas as pd
    from alpaca_eval.metrics import glm_winrate

    path = Path(folder) / "df_gamed.csv"
    pd.DataFrame(made["gamed"]).to_csv(path, index=False)
    glm_winrate.hf_hub_download = lambda **_: str(path)
    said = {}
    for name, case in made["cases"].items():
        rows = pd.DataFrame(
            {
                "preference": case["preferences"],
                "output_1": ["x" * length for length in case["baseline_lengths"]],
                "output_2": ["x" * length for length in case["model_lengths"]],
                "generator_1": "baseline",
                "generator_2": "model",
            }
        )
        said[name] = {}
        for model in ("length_controlled_v1", "length_controlled_noreg", "length_controlled_minimal"):
            got = glm_winrate.get_length_controlled_winrate(rows, glm_name=model, save_weights_dir=None)
            said[name][model] = got["length_controlled_winrate"]
            said[name][f"{model}_standard_error"] = got["lc_standard_error"]
        for key in ("win_rate", "standard_error", "discrete_win_rate", "n_wins", "n_wins_base", "n_draws", "n_total"):
            said[name][key] = float(got[key])
    return said


def main():
    logging.disable(logging.WARNING)
    import warnings

    warnings.simplefilter("ignore")
    made = inputs()
    with tempfile.TemporaryDirectory() as folder:
        made["alpaca_eval"] = verdicts(made, folder)
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main()
