"""Studies as Parquet files, table by table: what was planned, what every run measured, what came of it.

Runs are read block by block of a study, so memory grows with the largest block and not with the number of runs. A file
appears whole, once all of it is written.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.analysis.effects import study_effects
from neftune.errors import ConfigError, MissingExtraError, StoreError
from neftune.records import PlannedRun, RunRecord, Stage, StudyResult
from neftune.report.export_tables import (
    TABLES,
    Row,
    answer_rows,
    effect_row,
    history_rows,
    run_row,
    score_rows,
    setting_rows,
    stray_row,
)
from neftune.study.judged import with_judged
from neftune.study.store import Store
from neftune.study.variants import with_variants

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

_ROWS_AT_A_TIME = 20_000

OnStudy = Callable[[str, int, int], None]
"""Told the study's name, its blocks that are written, and how many there are."""


def export(
    store: Store,
    folder: Path,
    *,
    studies: Sequence[str],
    strays: bool = False,
    on_block: OnStudy = lambda name, done, blocks: None,
) -> dict[str, int]:
    """Write every table to ``folder``/<table>.parquet; the number of rows of each.

    Args:
        store: Where the studies are; only read.
        folder: Where the files go; made where it does not exist, files of the same names replaced.
        studies: Names of the studies.
        strays: Whether finished runs that no study plans are written too.
        on_block: Told how far it is.

    Raises:
        ConfigError: There is no such study, or nothing to write.
        StoreError: A file cannot be read or written.
        MissingExtraError: pyarrow is not installed.
    """
    if not studies and not strays:
        raise ConfigError(f"export needs a study, and {store.root} holds none. Name another folder with --out.")
    for name in studies:
        store.read_plan(name)  # One that does not exist leaves no empty folder.
    with _tables(folder) as tables:
        seen = _Seen(tables)
        for name in studies:
            _write_study(store, name, tables, seen, on_block)
        for run_id in store.runs() if strays else ():
            if run_id not in seen.runs and store.is_done(run_id):
                record = store.read_result(run_id)
                tables["runs"].add([stray_row(record)])
                seen.write(record)
    return {name: table.num_rows for name, table in tables.items()}


def _write_study(store: Store, name: str, tables: "Mapping[str, _Table]", seen: "_Seen", on_block: OnStudy) -> None:
    plan = store.read_plan(name)
    empty = with_judged(StudyResult(plan.recipe, (), {}, {}), store.study_folder(name))
    by_block = [list(runs) for _, runs in groupby(sorted(plan.planned, key=_block), key=_block)]
    for number, planned in enumerate(by_block):
        part = store.result(plan.recipe, tuple(planned))
        block = replace(part, judged=empty.judged, judged_by=empty.judged_by)
        tables["runs"].add(
            run_row(name, run, block.records.get(run.run_id), block.failures.get(run.run_id)) for run in planned
        )
        for run in planned:
            seen.write_settings(run.run_id, run.config)
            if run.run_id in block.records:
                seen.write(block.records[run.run_id])
        shown = with_variants(block)
        stages: dict[Stage, None] = dict.fromkeys(run.stage for run in planned)
        for stage in stages:
            effects = study_effects(shown.at(stage))
            tables["effects"].add(effect_row(name, stage, effect) for effect in effects)
        on_block(name, number + 1, len(by_block))


def _block(run: PlannedRun) -> str:
    return run.block


@dataclass
class _Seen:
    """What runs measured, written once however many studies share a run."""

    tables: "Mapping[str, _Table]"
    runs: set[str] = field(default_factory=set[str])
    planned: set[str] = field(default_factory=set[str])
    tags: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])

    def write_settings(self, run_id: str, config: Mapping[str, Any]) -> None:
        if run_id not in self.planned:
            self.planned.add(run_id)
            self.tables["settings"].add(setting_rows(run_id, config))

    def write(self, record: RunRecord) -> None:
        if record.run_id in self.runs:
            return
        self.runs.add(record.run_id)
        self.write_settings(record.run_id, record.config)
        self.tables["scores"].add(score_rows(record))
        self.tables["answers"].add(answer_rows(record))
        self.tables["history"].add(history_rows(record))
        new = {(one, name, value) for one, tags in record.tags.items() for name, value in tags.items()} - self.tags
        self.tags |= new
        self.tables["tags"].add(sorted(new))


class _Table:
    """One Parquet file that is being written, some rows at a time."""

    def __init__(self, path: Path, schema: "pa.Schema", writer: "ParquetWriter") -> None:
        self.path = path
        self.schema = schema
        self.writer = writer
        self.rows: list[Row] = []
        self.num_rows = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows; they are on the disk once there are enough of them."""
        self.rows.extend(rows)
        if len(self.rows) >= _ROWS_AT_A_TIME:
            self.flush()

    def flush(self) -> None:
        """Write what was taken."""
        import pyarrow as pa

        if not self.rows:
            return
        columns = list(zip(*self.rows, strict=True))
        arrays = [_array(column, kind.type) for column, kind in zip(columns, self.schema, strict=True)]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self.num_rows += len(self.rows)
        self.rows.clear()


def _array(column: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    import pyarrow as pa

    try:
        return pa.array(column, type=kind, from_pandas=False)
    except UnicodeEncodeError:
        # Half of a surrogate pair, which UTF-8 cannot hold.
        return pa.array([one and one.encode("utf-8", "replace").decode() for one in column], type=kind)


@contextmanager
def _tables(folder: Path) -> Iterator[dict[str, _Table]]:
    """A table for every name; the files get their names once all are whole."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise MissingExtraError("export needs pyarrow. Run: pip install 'neftune[study]'") from error
    tables: dict[str, _Table] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in TABLES.items():
            schema = pa.schema([pa.field(column.name, column.arrow(pa)) for column in table])
            path = folder / f".{name}.parquet.writing"
            tables[name] = _Table(path, schema, ParquetWriter(path, schema, compression="zstd"))
        yield tables
        for table in tables.values():
            table.flush()
            table.writer.close()
        for name, table in tables.items():
            table.path.replace(folder / f"{name}.parquet")
    except OSError as error:
        raise StoreError(f"{folder} could not be written: {error.strerror or error}. Name another --to.") from error
    finally:
        for table in tables.values():
            if table.writer.is_open:
                table.writer.close()
            table.path.unlink(missing_ok=True)
