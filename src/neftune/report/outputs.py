"""The output browser's data: every prompt with the answers of all arms, texts stored once each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from neftune.records import PARTS, Answer, RunRecord
from neftune.report.overview import Overview

SHOWN_SCORES = ("true_facts", "false_facts", "quality", "rouge_l", "loss")
"""Scores shown under an answer, where a run has them."""


class Texts:
    """A table of texts in which equal ones are stored once."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}

    def add(self, text: str) -> int:
        """The text's place in the table."""
        return self._index.setdefault(text, len(self._index))

    def all(self) -> list[str]:
        """Texts in order of their places."""
        return list(self._index)


def outputs_payload(overview: Overview) -> dict[str, Any]:
    """Everything the output browser shows, as plain data.

    Answers are grouped by block and part; within a group, every run answers the same examples in one order.
    ``wins`` compares an answer with the baseline's of the same seed by the judge's quality: "w" wins, "l" loses,
    "d" draw, "-" unknown (no judge, no such baseline run, or the baseline itself).
    """
    texts = Texts()
    groups = [_group(overview, block, part, texts) for block in overview.blocks for part in reversed(PARTS)]
    return {
        "arms": [{"name": arm.name, "role": arm.role, "colours": arm.colours} for arm in overview.arms],
        "judged": overview.has_judge,
        "groups": [group for group in groups if group["examples"]],
        "texts": texts.all(),
    }


def _group(overview: Overview, block: str, part: str, texts: Texts) -> dict[str, Any]:
    examples: dict[str, dict[str, Any]] = {}
    found: list[tuple[int, int, RunRecord]] = []
    for _, arm, seed, _ in overview.corners(block):
        record = overview.runs.get((arm.name, block, seed))
        if record and record.answers.get(part):
            found.append((arm.index, seed, record))
            for answer in record.answers[part]:
                if answer.example_id not in examples:
                    examples[answer.example_id] = _example(answer, record, texts)
    ids = list(examples)
    baseline = {seed: record for index, seed, record in found if overview.arms[index].role == "baseline"}
    runs = [
        {
            "arm": index,
            "seed": seed,
            **_run(record, part, ids, texts),
            "wins": _wins(record, baseline.get(seed), part, ids),
        }
        for index, seed, record in found
    ]
    return {"block": block, "part": part, "examples": list(examples.values()), "runs": runs}


def _example(answer: Answer, record: RunRecord, texts: Texts) -> dict[str, Any]:
    return {
        "id": answer.example_id,
        "prompt": texts.add(answer.prompt),
        "reference": texts.add(answer.reference),
        "tags": dict(record.tags.get(answer.example_id, {})),
    }


def _run(record: RunRecord, part: str, ids: Sequence[str], texts: Texts) -> dict[str, Any]:
    by_id = {answer.example_id: answer for answer in record.answers[part]}
    rows = [by_id.get(example_id) for example_id in ids]
    scores = score_columns(record, part, ids)
    return {
        "text": [None if row is None else texts.add(row.text) for row in rows],
        "words": [None if row is None else len(row.text.split()) for row in rows],
        "ended": [None if row is None else int(row.ended) for row in rows],
        "scores": {name: scores[name] for name in SHOWN_SCORES if name in scores},
    }


def score_columns(record: RunRecord, part: str, ids: Sequence[str]) -> Mapping[str, list[float | None]]:
    """Scores of one part in the order of ``ids``; None where a score is undefined."""
    scores = record.scores.get(part)
    if scores is None:
        return {}
    place = {example_id: index for index, example_id in enumerate(scores.example_ids)}
    columns: dict[str, list[float | None]] = {}
    for name, values in scores.values.items():
        picked = [values[place[example_id]] if example_id in place else math.nan for example_id in ids]
        columns[name] = [round(value, 4) if math.isfinite(value) else None for value in picked]
    return columns


def _wins(record: RunRecord, baseline: RunRecord | None, part: str, ids: Sequence[str]) -> str:
    mine = score_columns(record, part, ids).get("quality")
    theirs = score_columns(baseline, part, ids).get("quality") if baseline and baseline is not record else None
    if not mine or not theirs:
        return "-" * len(ids)
    return "".join(_letter(a, b) for a, b in zip(mine, theirs, strict=True))


def _letter(mine: float | None, theirs: float | None) -> str:
    if mine is None or theirs is None:
        return "-"
    return "d" if mine == theirs else "w" if mine > theirs else "l"
