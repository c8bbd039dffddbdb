"""Data sets: named or by path, read, cleaned of duplicates and cut into parts."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from neftune.config import DataConfig
from neftune.data.formats import Parsed, detect_format, formats
from neftune.data.readers import BadRow, Row, Rows, read_rows
from neftune.data.splits import cut_parts
from neftune.errors import DataError
from neftune.records import DataSet, Example, content_hash
from neftune.registry import Registry, unknown_name

_TAG_FIELDS = ("category", "subset", "data_source", "dataset")


@dataclass(frozen=True, slots=True)
class Source:
    """A data set by name: where it is and what the paper did with it.

    Attributes:
        hub_id: Its id on the Hugging Face hub.
        format: How its rows are read.
        template: The prompt template that the paper used for it.
        licence: Its terms, as its publishers state them.
        source: Where it comes from.
        num_rows: Rows as published.
        data_files: The one file that is read, where the hub repository holds several; else None.
    """

    hub_id: str
    format: str
    template: str
    licence: str
    source: str
    num_rows: int
    data_files: str | None = None


data_sets: Registry[Source] = Registry("data set")
"""Named data sets; `data.source` takes a name in place of the hub id."""

data_sets.register("alpaca")(
    Source(
        hub_id="tatsu-lab/alpaca",
        format="alpaca",
        template="alpaca",
        licence="CC BY-NC 4.0",
        source="https://github.com/tatsu-lab/stanford_alpaca",
        num_rows=52_002,
    )
)
data_sets.register("evol-instruct")(
    Source(
        hub_id="WizardLMTeam/WizardLM_evol_instruct_70k",
        format="alpaca",
        template="alpaca",
        licence="CC BY-NC 4.0 (the authors' DATA_LICENSE; the hub page says MIT)",
        source="https://arxiv.org/abs/2304.12244",
        num_rows=70_000,
    )
)
data_sets.register("sharegpt")(
    Source(
        hub_id="anon8231489123/ShareGPT_Vicuna_unfiltered",
        format="conversations",
        template="vicuna",
        licence="none stated: scraped from sharegpt.com",
        source="https://github.com/lm-sys/FastChat",
        num_rows=94_145,
        data_files="ShareGPT_V3_unfiltered_cleaned_split.json",
    )
)
data_sets.register("open-platypus")(
    Source(
        hub_id="garage-bAInd/Open-Platypus",
        format="alpaca",
        template="alpaca",
        licence="mixed, by component (see the hub page)",
        source="https://arxiv.org/abs/2308.07317",
        num_rows=24_926,
    )
)
data_sets.register("lima")(
    Source(
        hub_id="GAIR/lima",
        format="conversations",
        template="alpaca",
        licence="CC BY-NC-SA, or stricter where a source is (gated on the hub)",
        source="https://arxiv.org/abs/2305.11206",
        num_rows=1_030,
    )
)
data_sets.register("dolly")(
    Source(
        hub_id="databricks/databricks-dolly-15k",
        format="alpaca",
        template="alpaca",
        licence="CC BY-SA 3.0",
        source="https://github.com/databrickslabs/dolly",
        num_rows=15_011,
    )
)


class Reading(NamedTuple):
    """Examples in the order they were read, and what was counted on the way."""

    examples: tuple[Example, ...]
    counts: Mapping[str, int]


def load_data(config: DataConfig) -> DataSet:
    """The examples of a data configuration in disjoint parts.

    Raises:
        DataError: The source cannot be read, a row of it is broken, or it holds too few examples.
    """
    if config.source == "microworld":
        from neftune.data import microworld

        return microworld.load_data(config)
    examples, counts = read_examples(config.source, format=config.format, skip_bad=config.skip_bad)
    parts, cut_counts = cut_parts(examples, config)
    fingerprint = content_hash({part: [example.id for example in of_part] for part, of_part in parts.items()})
    return DataSet(parts, fingerprint, {**counts, **cut_counts})


def read_examples(source: str | Path, *, format: str = "auto", skip_bad: bool = False) -> Reading:
    """Every example of a source, in its order, duplicates included.

    Args:
        source: A named data set, a file, a folder of files or a hub id. A name goes before a path: write ./alpaca
            for a folder called alpaca.
        format: A registered format, or "auto" for the one that the fields of each file's rows fit.
        skip_bad: Skip and count broken rows instead of stopping at the first.

    Returns:
        Examples, and the counts "read", "bad_lines_skipped" and "leading_assistant_turns_dropped".

    Raises:
        DataError: There is no such source, it cannot be read, it has no example, or (without skip_bad) a row is broken.
    """
    counts = Counter(read=0, bad_lines_skipped=0, leading_assistant_turns_dropped=0)
    examples: list[Example] = []
    first_problem = ""
    for row, parsed in _parsed_rows(source, format):
        if isinstance(parsed, DataError):
            message = f"{row.where}: {parsed}"
            if not skip_bad:
                raise DataError(f"{message}. Fix the row, or set data.skip_bad=true to skip and count such rows.")
            first_problem = first_problem or f" The first bad row: {message}."
            counts["bad_lines_skipped"] += 1
            continue
        counts["read"] += 1
        counts["leading_assistant_turns_dropped"] += parsed.num_leading_dropped
        examples.append(Example.make(parsed.turns, input=parsed.input, tags=_tags(row)))
    if not examples:
        skipped = counts["bad_lines_skipped"]
        raise DataError(
            f"data must hold at least one example, got none from {source} ({skipped} bad rows skipped).{first_problem}"
        )
    return Reading(tuple(examples), dict(counts))


def _parsed_rows(source: str | Path, format: str) -> Iterator[tuple[Row | BadRow, Parsed | DataError]]:
    """Every row with what it says, or with what is wrong with it."""
    if format != "auto":
        formats[format]
    named = data_sets.get(str(source))
    found = read_rows(named.hub_id if named else source, data_files=named.data_files if named else None)
    for _, rows in _with_hint(found, source):
        yield from _parsed_file(rows, named.format if named and format == "auto" else format)


def _with_hint(found: Iterator[tuple[str, Rows]], source: str | Path) -> Iterator[tuple[str, Rows]]:
    try:
        yield from found
    except DataError as error:
        if "/" in str(source) or "." in str(source):
            raise
        raise DataError(f"{error} {unknown_name('Otherwise the data set', str(source), list(data_sets))}") from error


def _parsed_file(rows: Rows, format: str) -> Iterator[tuple[Row | BadRow, Parsed | DataError]]:
    """The rows of one file; its format is that of its first row that fits one."""
    for row in rows:
        try:
            if isinstance(row, BadRow):
                raise DataError(row.problem)
            format = detect_format(row.fields) if format == "auto" else format
            yield row, formats[format].parse(row.fields)
        except DataError as error:
            yield row, error


def _tags(row: Row | BadRow) -> dict[str, str]:
    if isinstance(row, BadRow):
        return {}
    return {name: row.fields[name] for name in _TAG_FIELDS if isinstance(row.fields.get(name), str)}
