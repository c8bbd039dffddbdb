"""The tables of AlpacaEval that length control may use: instruction difficulties, fitted weights, gamed baselines."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neftune.data.readers import BadRow, Row, read_rows
from neftune.errors import DataError
from neftune.evaluation.winrate import Floats

LENGTH, DIFFICULTY, MODEL = "np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)"
"""Columns of a weights table, as AlpacaEval's formula names them."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One model's row of a published weights table, in AlpacaEval's signs: lengths are baseline minus model."""

    length: float
    difficulty: float
    model: float


@dataclass(frozen=True, slots=True, eq=False)
class Gamed:
    """Judgements of the gamed baselines, in the order of their file.

    Attributes:
        shares: (g,) share of the preference that went to the gamed answer, 0 to 1.
        lengths: (g,) tanh of (gamed answer's length - baseline's) over its standard deviation.
        difficulty: (g,) of the instruction.
        difficulties: Instruction -> difficulty.
    """

    shares: Floats
    lengths: Floats
    difficulty: Floats
    difficulties: Mapping[str, float]


def read_difficulties(path: Path) -> dict[str, float]:
    """Instruction -> difficulty, from a CSV whose first column is the instruction and whose second is the number.

    Raises:
        DataError: No such file, a broken row, an instruction twice, or no instruction at all.

    Source: tatsu-lab/alpaca_eval, data set on the hub, instruction_difficulty.csv.
    """
    found: dict[str, float] = {}
    for row in _rows(path, "a table of difficulties"):
        names = list(row.fields)
        if len(names) != 2:
            raise DataError(
                f"{row.where}: a table of difficulties must have two columns, the instruction's idx and its "
                f"difficulty, got {', '.join(names) or 'none'}."
            )
        key = str(row.fields[names[0]]).strip()
        if key in found:
            raise DataError(f"{row.where}: a table of difficulties must name each idx once, got {key!r} twice.")
        found[key] = _number(row, names[1])
    return found


def read_weights(path: Path) -> dict[str, Weights]:
    """Model -> weights, from a table that AlpacaEval saved.

    Raises:
        DataError: No such file, a column missing, a broken row, or a model twice.

    Source: tatsu-lab/alpaca_eval, src/alpaca_eval/metrics/weights.
    """
    found: dict[str, Weights] = {}
    for row in _rows(path, "a table of weights"):
        _require(row, (LENGTH, DIFFICULTY, MODEL))
        model = str(next(iter(row.fields.values()))).strip()
        if model in found:
            raise DataError(f"{row.where}: a table of weights must name each model once, got {model!r} twice.")
        found[model] = Weights(_number(row, LENGTH), _number(row, DIFFICULTY), _number(row, MODEL))
    return found


def read_gamed(path: Path) -> Gamed:
    """The gamed baselines' judgements, from AlpacaEval's `df_gamed.csv`.

    Raises:
        DataError: No such file, a column missing, a broken row, or a row that is not of a gamed baseline.

    Source: tatsu-lab/alpaca_eval, data set on the hub, df_gamed.csv; metrics/glm_winrate.py, _get_featurized_data.
    """
    columns = ("index", "preference", "std_delta_len", "instruction_difficulty")
    values: list[list[float]] = []
    difficulties: dict[str, float] = {}
    for row in _rows(path, "a table of gamed baselines"):
        _require(row, (*columns, "not_gamed_baseline"))
        if str(row.fields["not_gamed_baseline"]).strip().lower() not in ("false", "0"):
            raise DataError(
                f"{row.where}: not_gamed_baseline must be False in every row of a table of gamed baselines."
            )
        share, length, difficulty = (_number(row, name) for name in columns[1:])
        if not 0 <= share <= 1:
            raise DataError(f"{row.where}: a gamed baseline's preference must be a share from 0 to 1, got {share:g}.")
        values.append([share, length, difficulty])
        difficulties.setdefault(str(row.fields["index"]).strip(), difficulty)
    table = np.array(values)
    return Gamed(table[:, 0], np.tanh(-table[:, 1]), table[:, 2], difficulties)


def _rows(path: Path, what: str) -> Iterable[Row]:
    if not path.is_file():
        raise DataError(f"{what} must be a file, got {path}, which is none. Check the path.")
    found = False
    for _, rows in read_rows(path):
        for row in rows:
            if isinstance(row, BadRow):
                raise DataError(f"{row.where}: {row.problem}.")
            found = True
            yield row
    if not found:
        raise DataError(f"{what} must have rows, got none in {path}.")


def _require(row: Row, columns: Iterable[str]) -> None:
    missing = [name for name in columns if name not in row.fields]
    if missing:
        raise DataError(
            f"{row.where}: the table must have the columns {', '.join(columns)}; it lacks {', '.join(missing)}."
        )


def _number(row: Row, column: str) -> float:
    try:
        value = float(row.fields[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{row.where}: {column} must be a finite number, got {row.fields[column]!r}.")
    return value
