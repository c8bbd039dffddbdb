"""AlpacaEval's published leaderboards and judgements, from the folder of real data."""

import csv
from functools import lru_cache
from pathlib import Path

from neftune.evaluation.annotations import Annotations, read_annotations


def board(folder: Path, version: str) -> dict[str, dict[str, str]]:
    """Model -> its row of the leaderboard."""
    with (folder / f"leaderboard_{version}.csv").open(encoding="utf-8", newline="") as file:
        return {row[""]: row for row in csv.DictReader(file)}


@lru_cache
def judged(folder: Path, version: str) -> dict[str, Annotations]:
    """Model -> its judgements."""
    return {one.model: one for one in read_annotations([folder / f"annotations_{version}.jsonl.gz"])}
