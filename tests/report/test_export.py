"""What is exported reads back as it was: every score, answer, loss, setting and effect."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neftune.analysis.effects import study_effects
from neftune.errors import ConfigError, StoreError
from neftune.records import Answer, RunRecord, Scores, StudyResult
from neftune.report.export import export
from neftune.report.export_tables import TABLES
from neftune.study.store import Store
from neftune.study.variants import with_variants
from tests.synthetic import make_study

Rows = list[dict[str, Any]]


def stored(root: Path, **of_study: Any) -> tuple[Store, StudyResult]:
    """A synthetic study on disk, and as it is read from there."""
    result = make_study(sizes={"train": 6, "heldout": 8, "test": 10}, **of_study)
    store = Store(root)
    name = str(result.recipe["name"])
    store.write_study(name, result.recipe, result.planned)
    for record in result.records.values():
        store.write_result(record)
    for failure in result.failures.values():
        store.write_failure(failure)
    return store, store.read_study(name)


def tables(folder: Path) -> dict[str, Rows]:
    return {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in TABLES}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, dict[str, Rows]]:
    root = tmp_path_factory.mktemp("export")
    failed = [("nsr=0.6", "world=1", 2)]
    store, result = stored(root, failed=failed, missing=[("nsr=1.0", "world=1", 0)])
    counted = export(store, root / "tables", studies=["synthetic"])
    found = tables(root / "tables")
    assert counted == {name: len(rows) for name, rows in found.items()}
    return result, found


def test_the_files_have_the_columns_and_types_that_are_documented(tmp_path: Path):
    store, _ = stored(tmp_path)
    export(store, tmp_path / "tables", studies=["synthetic"])
    documented = (Path(__file__).parents[2] / "docs/data.md").read_text()
    for name, columns in TABLES.items():
        schema = pq.read_schema(tmp_path / "tables" / f"{name}.parquet")
        assert schema.names == [column.name for column in columns]
        for kind, column in zip(schema.types, columns, strict=True):
            assert kind == column.arrow(pa), column.name
            assert f"| {column.name} | {column.kind} | {column.meaning} |" in documented, (name, column.name)


def test_every_score_answer_and_loss_reads_back_equal(both: tuple[StudyResult, dict[str, Rows]]):
    result, found = both
    for run_id, record in result.records.items():
        mine = {name: [row for row in rows if row.get("run_id") == run_id] for name, rows in found.items()}
        assert read_back_scores(mine["scores"]) == plain_scores(record)
        assert {part: tuple(answers) for part, answers in read_back_answers(mine["answers"]).items()} == record.answers
        losses = [(row["step"], row["epoch"], row["name"], row["value"]) for row in mine["history"]]
        assert losses == [(p.step, p.epoch, name, one) for p in record.history for name, one in p.values.items()]


def plain_scores(record: RunRecord) -> dict[tuple[str, str, str], str]:
    """Scores as text, in which NaN equals NaN and no digit is lost."""
    return {
        (part, example, metric): repr(value)
        for part, scores in record.scores.items()
        for metric, values in scores.values.items()
        for example, value in zip(scores.example_ids, values, strict=True)
    }


def read_back_scores(rows: Rows) -> dict[tuple[str, str, str], str]:
    assert all(row["value"] is not None for row in rows), "undefined is NaN, not null"
    return {(row["part"], row["example_id"], row["metric"]): repr(row["value"]) for row in rows}


def read_back_answers(rows: Rows) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    names = ("example_id", "prompt", "text", "reference", "num_tokens", "ended")
    for row in rows:
        found.setdefault(row["part"], []).append(Answer(*[row[name] for name in names]))
    return found


def test_runs_say_what_is_done_what_failed_and_what_is_to_come(both: tuple[StudyResult, dict[str, Rows]]):
    result, found = both
    in_blocks = sorted(result.planned, key=lambda run: run.block)
    assert [row["run_id"] for row in found["runs"]] == [run.run_id for run in in_blocks]
    states = {row["run_id"]: row["state"] for row in found["runs"]}
    assert {run for run, state in states.items() if state == "done"} == set(result.records)
    (failed,) = [row for row in found["runs"] if row["state"] == "failed"]
    assert failed["message"] == result.failures[failed["run_id"]].message
    assert list(states.values()).count("not run") == 1
    for row in found["runs"]:
        record = result.records.get(row["run_id"])
        assert row["alpha"] == (record.alpha if record else None)
        if record:
            assert dict(row["counts"]) == record.counts
            assert dict(row["versions"]) == record.versions
            assert row["noise_to_embedding"] == (record.noise.noise_to_embedding if record.noise else None)


def test_settings_are_flat_and_whole(both: tuple[StudyResult, dict[str, Rows]]):
    result, found = both
    for run in result.planned:
        flat = {row["knob"]: json.loads(row["value"]) for row in found["settings"] if row["run_id"] == run.run_id}
        assert nested(flat) == json.loads(json.dumps(run.config))
    (number,) = {row["number"] for row in found["settings"] if row["knob"] == "train.learning_rate"}
    assert number == result.planned[0].config["train"]["learning_rate"]


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        group = values
        for parent in parents:
            group = group.setdefault(parent, {})
        group[last] = value
    return values


def test_effects_are_those_of_the_report(both: tuple[StudyResult, dict[str, Rows]]):
    result, found = both
    effects = study_effects(with_variants(result))
    assert len(effects) == len(found["effects"]) > 20
    by_key = {(row["block"], row["part"], row["arm"], row["metric"]): row for row in found["effects"]}
    for effect in effects:
        row = by_key[effect.block, effect.part, effect.arm, effect.metric]
        for name in ("estimate", "low", "high", "p_value", "num_examples", "method", "against"):
            assert repr(row[name]) == repr(getattr(effect, name)), name
        assert tuple(row["seeds"]) == effect.seeds
        assert (row["bootstrap_low"], row["bootstrap_high"]) == (effect.bootstrap or (None, None))


def test_studies_that_share_a_run_have_its_scores_once(tmp_path: Path):
    store, result = stored(tmp_path)
    store.write_study("second", {**result.recipe, "name": "second"}, result.planned[:4])
    store.write_result(replace(next(iter(result.records.values())), run_id="stray"))
    alone = export(store, tmp_path / "alone", studies=["synthetic"])
    every = export(store, tmp_path / "every", studies=["second", "synthetic"], strays=True)
    assert every["runs"] == alone["runs"] + 4 + 1
    assert every["scores"] == alone["scores"] + alone["scores"] // len(result.records)
    assert every["tags"] == alone["tags"]
    (stray,) = [row for row in tables(tmp_path / "every")["runs"] if row["study"] is None]
    assert (stray["run_id"], stray["state"]) == ("stray", "done")


def test_control_variants_stand_in_a_column_of_their_own(tmp_path: Path):
    store, result = stored(tmp_path, blocks=("",), control=False)
    for run_id, record in result.records.items():
        scores = {**record.scores, "test@long": record.scores["test"]}
        answers = {**record.answers, "test@long": record.answers["test"]}
        store.write_result(replace(record, run_id=run_id, scores=scores, answers=answers))
    export(store, tmp_path / "tables", studies=["synthetic"])
    found = tables(tmp_path / "tables")
    assert {row["variant"] for row in found["answers"] if row["part"] == "test"} == {"", "long"}
    assert {row["arm"] for row in found["effects"]} >= {"baseline, long", "nsr=0.3, long"}


def test_hostile_text_is_kept_and_half_a_surrogate_pair_replaced(tmp_path: Path):
    store, result = stored(tmp_path, hostile=True, blocks=("",))
    run_id, record = next(iter(result.records.items()))
    odd = Answer("odd", "half \ud83d of a pair", "nul \x00 and \u2028", "", 1, False)
    scores = {"test": Scores(("odd",), {"loss": (math.nan,)})}
    store.write_result(replace(record, run_id=run_id, answers={"test": (odd,)}, scores=scores))
    with pytest.raises(Exception, match="example"):
        export(store, tmp_path / "tables", studies=["synthetic"])
    assert not list((tmp_path / "tables").iterdir()), "a failed export leaves nothing half-written"
    store.write_result(replace(record, answers={**record.answers, "test": (*record.answers["test"], odd)}))
    export(store, tmp_path / "tables", studies=["synthetic"])
    (row,) = [row for row in tables(tmp_path / "tables")["answers"] if row["example_id"] == "odd"]
    assert (row["prompt"], row["text"]) == ("half ? of a pair", odd.text)


def test_what_cannot_be_written_is_said(tmp_path: Path):
    store, _ = stored(tmp_path, blocks=("",))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file could not be written.*--to"):
        export(store, tmp_path / "file", studies=["synthetic"])
    with pytest.raises(ConfigError, match="must hold the study 'none'; it holds synthetic"):
        export(store, tmp_path / "tables", studies=["none"])
    assert not (tmp_path / "tables").exists()
    with pytest.raises(ConfigError, match="export needs a study"):
        export(Store(tmp_path / "empty"), tmp_path / "tables", studies=[])
