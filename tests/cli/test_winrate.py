"""`neftune winrate` on AlpacaEval's own judgements, and on wrong input."""

import csv
import json
from pathlib import Path

import pytest

from neftune.cli.main import main
from tests.published_boards import board

ORACLE = json.loads((Path(__file__).parents[1] / "reference" / "alpaca_eval_oracle.json").read_text())


def test_the_board_is_reproduced(shared: Path, capsys: pytest.CaptureFixture[str]):
    folder = shared / "data" / "alpaca_eval"
    tables = ["--difficulty", str(folder / "derived_instruction_difficulty.csv")]
    weights = [*tables, "--weights", str(folder / "lc_glm_weights_ae2.csv")]
    assert main(["winrate", str(folder / "annotations_ae2.jsonl.gz"), *weights, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["models"]
    published, num_rates = board(folder, "ae2"), 0
    for row in shown:
        if row["model"] in published and row["length_controlled"]["label"] == "published weights":
            own = published[row["model"]]
            assert row["raw"]["win_rate"] == pytest.approx(float(own["win_rate"]), abs=1e-6)
            rate = float(own["length_controlled_winrate"])
            assert row["length_controlled"]["win_rate"] == pytest.approx(rate, abs=0.25)
            assert row["length_controlled"]["standard_error"] is None
            num_rates += 1
    assert num_rates >= 48


def test_the_table_names_copies_and_what_its_rates_rest_on(shared: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["winrate", str(shared / "data" / "alpaca_eval" / "annotations_ae1.jsonl.gz")]) == 0
    shown = capsys.readouterr()
    row = next(line for line in shown.out.splitlines() if line.startswith("alpaca-7b-neft"))
    label = "(no gamed prior, no difficulty)"
    wanted = f"alpaca-7b-neft 803 2 0 61.64 +- 1.72 61.64 28.17 +- 3.66 {label} 21.28 +- 6.03 47 1067 482"
    assert " ".join(row.split()) == wanted
    assert "falcon-7b-instruct: its judgements are of generator_2 = 'falcon-40b-instruct'" in shown.err
    assert "falcon-40b-instruct, falcon-7b-instruct: the same judgements" in shown.err


def test_the_official_fit_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    case = ORACLE["cases"]["longer"]
    names = ("preferences", "model_lengths", "baseline_lengths")
    rows = [
        {"idx": index, "generator_2": "ours", "preference": preference, "len_2": model, "len_1": baseline}
        for index, (preference, model, baseline) in enumerate(zip(*(case[name] for name in names), strict=True))
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (tmp_path / "df_gamed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ORACLE["gamed"][0])
        writer.writeheader()
        writer.writerows(ORACLE["gamed"])
    assert main(["winrate", str(tmp_path / "a.jsonl"), "--gamed", str(tmp_path / "df_gamed.csv")]) == 0
    shown = capsys.readouterr().out
    assert "(gamed prior)" in shown
    assert f"{ORACLE['alpaca_eval']['longer']['length_controlled_v1']:.2f} +- " in shown
    assert "no gamed prior" not in shown


def test_wrong_input_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["winrate", str(tmp_path / "absent.jsonl")]) == 2
    assert "annotations must be a file" in capsys.readouterr().err
    (tmp_path / "a.jsonl").write_text('{"preference": 4, "generator_2": "ours"}')
    assert main(["winrate", str(tmp_path / "a.jsonl")]) == 2
    assert "got 4" in capsys.readouterr().err
    (tmp_path / "b.jsonl").write_text('{"preference": 2, "generator_2": "ours"}')
    for tolerance in ("-0.1", "nan", "1.5"):
        assert main(["winrate", str(tmp_path / "b.jsonl"), "--tolerance", tolerance]) == 2
        assert "must be from 0 to 1" in capsys.readouterr().err
    (tmp_path / "w.csv").write_text(
        ",np.tanh(std_delta_len),instruction_difficulty,not_gamed_baseline.astype(float)\nm,1,2,3\n"
    )
    assert main(["winrate", str(tmp_path / "a.jsonl"), "--weights", str(tmp_path / "w.csv")]) == 2
    assert "Give --difficulty too" in capsys.readouterr().err
