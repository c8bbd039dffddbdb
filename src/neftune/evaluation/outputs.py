"""Prompts and outputs from files, in AlpacaEval's model_outputs format, and how two files of them join.

A row holds `instruction` and `output`, and, of what it has, `input` (material the instruction works on), `generator`
(who wrote the output) and `id` or `idx`. A file is a JSON list or JSONL, gzipped or not. An empty output is an output:
it is counted, and judged like any other, as AlpacaEval does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neftune.data.readers import BadRow, Row, read_rows
from neftune.errors import DataError
from neftune.records import Answer

_ID_FIELDS = ("id", "idx")


@dataclass(frozen=True, slots=True)
class Output:
    """One answer to one prompt, or in a file of prompts the prompt alone.

    Attributes:
        where: File and line, or file and row.
        instruction: What was asked.
        input: Material the instruction works on; "" where there is none.
        text: The output; "" in a file of prompts.
        generator: Who wrote it; "" where the row does not say.
        id: Value of `id` or `idx`; None where the row has neither.
        fields: The whole row.
    """

    where: str
    instruction: str
    input: str
    text: str
    generator: str
    id: str | None
    fields: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """Instruction and input as one text."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    @property
    def is_empty(self) -> bool:
        """Whether the output says nothing."""
        return not self.text.strip()


@dataclass(frozen=True, slots=True)
class Outputs:
    """All outputs of one file or run, in its order; each prompt once.

    Attributes:
        source: The file or folder.
        rows: The outputs, at least one.
        id_field: The field that holds ids, "id" or "idx"; None where rows have none.
    """

    source: str
    rows: tuple[Output, ...]
    id_field: str | None

    @property
    def generator(self) -> str:
        """Who wrote them: what the rows say where they agree, else the file's or folder's name."""
        names = {row.generator for row in self.rows}
        path = Path(self.source)
        return names.pop() if len(names) == 1 and "" not in names else path.name.split(".")[0] or path.name

    @property
    def num_empty(self) -> int:
        """Outputs that say nothing."""
        return sum(row.is_empty for row in self.rows)


def read_outputs(path: Path) -> Outputs:
    """The outputs of a file.

    Raises:
        DataError: No such file, no rows, a broken row, one without instruction or output, an id missing or used twice,
            or an instruction twice where no ids tell the two apart.
    """
    return _checked(str(path), _read(path, ("instruction", "output")))


def read_prompts(path: Path) -> Outputs:
    """The prompts of a file; outputs that stand there too are kept, and "" where they do not.

    Raises:
        DataError: As `read_outputs`, an output apart.
    """
    return _checked(str(path), _read(path, ("instruction",)))


def outputs_of_answers(answers: Sequence[Answer], source: str) -> Outputs:
    """A run's answers as outputs, their example's id as id, the prompt as the model read it as instruction.

    Raises:
        DataError: No answers, or an example twice.
    """
    rows = [
        _output(
            Row(
                f"{source}, answer {number}",
                {
                    "id": one.example_id,
                    "instruction": one.prompt,
                    "output": one.text,
                    "reference": one.reference,
                },
            ),
            ("instruction", "output"),
        )
        for number, one in enumerate(answers, start=1)
    ]
    return _checked(source, rows)


def join(first: Outputs, second: Outputs) -> tuple[tuple[Output, Output], ...]:
    """Outputs to the same prompts, in the first's order: by id where both name ids in one field, else by prompt.

    Raises:
        DataError: Prompts that one side alone has, or one id with two different prompts.
    """
    by_id = first.id_field is not None and first.id_field == second.id_field
    left, right = _keyed(first, by_id=by_id), _keyed(second, by_id=by_id)
    lacking = [
        f"{len(alone)} only in {side.source} (the first: {_short(alone[0])})"
        for side, alone in (
            (first, [row for key, row in left.items() if key not in right]),
            (second, [row for key, row in right.items() if key not in left]),
        )
        if alone
    ]
    if lacking:
        raise DataError(
            f"both sides must answer the same prompts (joined by {first.id_field if by_id else 'instruction and input'}"
            f"), got {len(left.keys() & right.keys())} in common and {', '.join(lacking)}. Generate the missing "
            "answers, or remove these rows."
        )
    joined = tuple((row, right[key]) for key, row in left.items())
    odd = [(a, b) for a, b in joined if a.prompt != b.prompt]
    if odd:
        raise DataError(
            f"one id must name one prompt, got {len(odd)} ids with two; the first: {odd[0][0].where} asks "
            f"{_short(odd[0][0])} and {odd[0][1].where} asks {_short(odd[0][1])}. Correct the ids, or remove them."
        )
    return joined


def _read(path: Path, needed: tuple[str, ...]) -> list[Output]:
    if not path.is_file():
        raise DataError(f"outputs must be a file, got {path}, which is none. Check the path.")
    found: list[Output] = []
    for _, rows in read_rows(path):
        for row in rows:
            if isinstance(row, BadRow):
                raise DataError(f"{row.where}: {row.problem}.")
            found.append(_output(row, needed))
    return found


def _output(row: Row, needed: tuple[str, ...]) -> Output:
    fields = row.fields
    absent = [name for name in needed if not isinstance(fields.get(name), str)]
    if absent:
        raise DataError(
            f"{row.where}: an output row must have the texts {' and '.join(needed)}, got none for "
            f"{' and '.join(absent)}."
        )
    ids = [fields[name] for name in _ID_FIELDS if fields.get(name) not in (None, "")]
    return Output(
        where=row.where,
        instruction=fields["instruction"],
        input=_text(fields.get("input")),
        text=_text(fields.get("output")),
        generator=_text(fields.get("generator")),
        id=str(ids[0]) if ids else None,
        fields=dict(fields),
    )


def _checked(source: str, rows: list[Output]) -> Outputs:
    if not rows:
        raise DataError(f"an output file must hold at least one row, got none in {source}.")
    bare = [row for row in rows if row.id is None]
    if bare and len(bare) < len(rows):
        raise DataError(
            f"{bare[0].where}: every row must have id (or idx), or none; {len(bare)} of {len(rows)} have none, this "
            "is the first."
        )
    field = None if bare else _id_field(rows)
    if field is not None:
        rows = [replace(row, id=_id_in(row.fields, field)) for row in rows]
    elif not bare:
        raise DataError(
            f"{source}: every row must have its id in one field, got id in some rows and idx in others. Name it alike."
        )
    seen: dict[object, str] = {}
    for row in rows:
        key = (row.instruction, row.input) if bare else row.id
        if key in seen:
            what = f"an answer to {_short(row)}" if bare else f"the id {row.id!r}"
            raise DataError(
                f"{row.where}: each prompt must be answered once, got {what} a second time (the first: {seen[key]}). "
                f"Keep one of them{', or give rows an id' if bare else ''}."
            )
        seen[key] = row.where
    return Outputs(source, tuple(rows), field)


def _id_field(rows: Sequence[Output]) -> str | None:
    """The field that holds every row's id; None where there is none."""
    return next((name for name in _ID_FIELDS if all(_id_in(row.fields, name) for row in rows)), None)


def _id_in(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return "" if value is None else str(value)


def _keyed(outputs: Outputs, *, by_id: bool) -> dict[object, Output]:
    """Rows by what they are joined by."""
    found: dict[object, Output] = {}
    for row in outputs.rows:
        key = row.id if by_id else (row.instruction, row.input)
        if key in found:
            raise DataError(
                f"{row.where}: a prompt may stand twice only where both sides have ids in one field, got "
                f"{_short(row)} a second time (the first: {found[key].where}). Give both sides ids, or keep one row."
            )
        found[key] = row
    return found


def _short(row: Output) -> str:
    prompt = " ".join(row.prompt.split())
    return repr(prompt if len(prompt) <= 60 else f"{prompt[:57]}...")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
