"""Judgements from files, in AlpacaEval's annotations format: one row per comparison, grouped by model and baseline.

A row holds `preference` (1 baseline wins, 2 model wins, between, 0 or 1.5 for a draw, null for unparsed), and, of what
it has, `idx` or `id`, `model`, `generator_1` (baseline), `generator_2` (model), `annotator`, `len_1`, `len_2`,
`output_1`, `output_2`. Files are JSON, JSONL, CSV or parquet; the first three may be gzipped.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neftune.data.readers import BadRow, Row, read_rows
from neftune.errors import DataError
from neftune.evaluation.winrate import Floats

Naming = Literal["auto", "model", "generator", "folder"]
"""What names the model of a row: its field `model`, its field `generator_2`, or its file as AlpacaEval keeps results,
MODEL/ANNOTATOR/annotations.json; "auto" takes `model` where a row has it, else `generator_2`."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """One model's judgements against one baseline by one annotator; n comparisons, in the order of their file.

    Attributes:
        model, baseline, annotator: Names; "" where the rows name none.
        ids: Instruction of each comparison: its idx or id, else its position from 0.
        preferences: (n,) as in the file, NaN where unparsed.
        model_lengths, baseline_lengths: (n,) in characters, NaN where unknown.
        generators: What the rows call the model in `generator_2`; more than its own name where they were filed wrongly.
        has_ids: Whether the rows name their instructions.
    """

    model: str
    baseline: str
    annotator: str
    ids: tuple[str, ...]
    preferences: Floats
    model_lengths: Floats
    baseline_lengths: Floats
    generators: tuple[str, ...]
    has_ids: bool

    @property
    def has_lengths(self) -> bool:
        """Whether lengths are known of every judged comparison."""
        judged = ~np.isnan(self.preferences)
        return bool(np.isfinite((self.model_lengths + self.baseline_lengths)[judged]).all())

    @property
    def other_names(self) -> tuple[str, ...]:
        """Names in `generator_2` that are not the model's."""
        return tuple(name for name in self.generators if name != self.model)


@dataclass(frozen=True, slots=True)
class _Comparison:
    where: str
    model: str
    baseline: str
    annotator: str
    key: str | None
    preference: float
    model_length: float
    baseline_length: float
    generator: str


def read_annotations(
    paths: Sequence[Path], *, by: Naming = "auto", reference: str | None = None
) -> tuple[Annotations, ...]:
    """The judgements of every model in the files, in the order in which models first appear.

    Args:
        paths: Files.
        by: What names the model of a row.
        reference: Baseline against which all are read: rows that have it as `generator_2` are turned around. None
            takes each row's `generator_1`.

    Raises:
        DataError: No such file, no row, a broken row, a comparison twice, lengths of some comparisons only, or a row
            in which the reference does not stand.
    """
    groups: dict[tuple[str, str, str], list[_Comparison]] = defaultdict(list)
    for path in paths:
        if not path.is_file():
            raise DataError(f"annotations must be a file, got {path}, which is none. Check the path.")
        for _, rows in read_rows(path):
            for row in rows:
                if isinstance(row, BadRow):
                    raise DataError(f"{row.where}: {row.problem}.")
                one = _comparison(row, path, by, reference)
                groups[(one.model, one.baseline, one.annotator)].append(one)
    if not groups:
        raise DataError(f"annotations must have rows, got none in {', '.join(map(str, paths))}.")
    return tuple(_grouped(rows) for rows in groups.values())


def copied_judgements(annotations: Iterable[Annotations]) -> list[tuple[str, ...]]:
    """Sets of models whose judgements are the same on every instruction: all but one of them are copies.

    Models with fewer than 20 decided comparisons are left out, which could agree by chance.
    """
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for one in annotations:
        if np.isfinite(one.preferences).sum() >= 20:
            verdicts = dict(zip(one.ids, np.nan_to_num(one.preferences, nan=-1.0).tolist(), strict=True))
            alike[(one.baseline, tuple(sorted(verdicts.items())))].append(one.model)
    return [tuple(models) for models in alike.values() if len(models) > 1]


def misfiled(annotations: Iterable[Annotations]) -> list[str]:
    """One line per model whose rows name another in `generator_2`, both names in it."""
    found = tuple(annotations)
    known = {one.model for one in found}
    lines: list[str] = []
    for one in found:
        for name in one.other_names:
            why = "another model here: probably a copy" if name in known else "perhaps another name of the same model"
            lines.append(f"{one.model}: its judgements are of generator_2 = {name!r}, {why}.")
    return lines


def difficulties_for(annotations: Annotations, difficulties: Mapping[str, float]) -> Floats:
    """(n,) difficulty of each comparison's instruction.

    Raises:
        DataError: An instruction has none; or the rows name no instructions and are not as many as the difficulties.
    """
    if not annotations.has_ids and len(annotations.ids) != len(difficulties):
        raise DataError(
            f"{annotations.model}: rows need idx or id to find their difficulty, and have neither; their order can "
            f"stand in only if there is one row per difficulty, got {len(annotations.ids)} rows and "
            f"{len(difficulties)} difficulties."
        )
    missing = [key for key in annotations.ids if key not in difficulties]
    if missing:
        raise DataError(
            f"{annotations.model}: each instruction needs a difficulty, got none for {len(missing)} of "
            f"{len(annotations.ids)}, first {missing[0]!r}. Give the table of these instructions, or none."
        )
    return np.array([difficulties[key] for key in annotations.ids])


def _comparison(row: Row, path: Path, by: Naming, reference: str | None) -> _Comparison:
    fields = row.fields
    first, second = _text(fields, "generator_1"), _text(fields, "generator_2")
    preference = _preference(row)
    lengths = (_length(row, 1), _length(row, 2))
    if reference is not None and reference not in (first, second):
        raise DataError(
            f"{row.where}: the reference {reference!r} must be generator_1 or generator_2 of every row, got "
            f"{first or 'nothing'!r} and {second or 'nothing'!r}."
        )
    if reference is not None and second == reference and first != reference:
        first, second = second, first
        preference = preference if preference == 0 else 3 - preference
        lengths = (lengths[1], lengths[0])
        by = "generator"
    key = next((str(fields[name]) for name in ("idx", "id") if fields.get(name) not in (None, "")), None)
    name = _model(row, path, second, by)
    return _Comparison(
        row.where, name, first, _text(fields, "annotator"), key, preference, lengths[1], lengths[0], second
    )


def _model(row: Row, path: Path, generator: str, by: Naming) -> str:
    own = _text(row.fields, "model")
    names = {
        "auto": own or generator,
        "model": own,
        "generator": generator,
        "folder": path.resolve().parent.parent.name,
    }
    if not names[by]:
        wanted = {"auto": "model or generator_2", "model": "model", "generator": "generator_2", "folder": "a folder"}
        raise DataError(f"{row.where}: a row must name its model ({wanted[by]}), got no name. See --by.")
    return names[by]


def _grouped(rows: Sequence[_Comparison]) -> Annotations:
    has_ids = all(row.key is not None for row in rows)
    if not has_ids and any(row.key is not None for row in rows):
        lacking = next(row for row in rows if row.key is None)
        raise DataError(f"{lacking.where}: every row of {lacking.model} must have idx or id, or none; this has none.")
    ids = tuple(row.key or "" if has_ids else str(position) for position, row in enumerate(rows))
    first: dict[str, str] = {}
    for key, row in zip(ids, rows, strict=True):
        if key in first:
            raise DataError(
                f"{row.where}: {row.model} must be judged once per instruction, got {key!r} a second time (first in "
                f"{first[key]}). Remove one, or tell annotators apart by the field annotator."
            )
        first[key] = row.where
    judged = [row for row in rows if not math.isnan(row.preference)]
    bare = [row for row in judged if math.isnan(row.model_length + row.baseline_length)]
    if bare and len(bare) < len(judged):
        raise DataError(
            f"{bare[0].where}: lengths (len_1 and len_2, or output_1 and output_2) must be known of all judged "
            f"comparisons of {bare[0].model} or of none, got {len(bare)} of {len(judged)} without."
        )
    return Annotations(
        model=rows[0].model,
        baseline=rows[0].baseline,
        annotator=rows[0].annotator,
        ids=ids,
        preferences=np.array([row.preference for row in rows]),
        model_lengths=np.array([row.model_length for row in rows]),
        baseline_lengths=np.array([row.baseline_length for row in rows]),
        generators=tuple(dict.fromkeys(row.generator for row in rows if row.generator)),
        has_ids=has_ids,
    )


def _preference(row: Row) -> float:
    if "preference" not in row.fields:
        raise DataError(f"{row.where}: a judgement must have a preference (null where unparsed), got none.")
    value = row.fields["preference"]
    if value is None or value == "":
        return math.nan
    try:
        number = math.inf if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.inf
    if not (number == 0 or 1 <= number <= 2 or math.isnan(number)):
        raise DataError(
            f"{row.where}: a preference must be between 1 (baseline wins) and 2 (model wins), 0 for a draw or null "
            f"for unparsed, got {value!r}."
        )
    return number


def _length(row: Row, side: int) -> float:
    """Characters of an answer: as stated, else counted; NaN where neither is there."""
    stated, output = row.fields.get(f"len_{side}"), row.fields.get(f"output_{side}")
    if stated is None or stated == "":
        return float(len(output)) if isinstance(output, str) else math.nan
    try:
        number = math.nan if isinstance(stated, bool) else float(stated)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise DataError(f"{row.where}: len_{side} must be a number of characters, got {stated!r}.")
    return number


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if value is None else str(value)
