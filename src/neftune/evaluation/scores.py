"""Scores of answers that are already there: text metrics and the judge, one row an example."""

import math
from collections.abc import Mapping, Sequence

from neftune.evaluation.judges import Judge
from neftune.evaluation.text_metrics import text_metrics
from neftune.records import Answer, Example, Scores


def score_answers(
    examples: Sequence[Example],
    answers: Mapping[str, Answer],
    *,
    losses: Mapping[str, float] | None = None,
    judge: Judge | None = None,
) -> Scores:
    """Scores of given answers; NaN for an example without an answer or a loss.

    Args:
        examples: What was asked.
        answers: Answers by example id.
        losses: Losses by example id; None leaves "loss" out.
        judge: Its scores are added; None adds none.
    """
    rows = [_score_answer(one, answers[one.id], judge) if one.id in answers else {} for one in examples]
    if losses is not None:
        rows = [{"loss": losses.get(one.id, math.nan), **row} for one, row in zip(examples, rows, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    return Scores(
        example_ids=tuple(one.id for one in examples),
        values={name: tuple(row.get(name, math.nan) for row in rows) for name in names},
    )


def _score_answer(example: Example, answer: Answer, judge: Judge | None) -> dict[str, float]:
    row = {"tokens": float(answer.num_tokens), "ended": float(answer.ended)}
    row |= {name: metric(answer.text, answer.reference) for name, metric in text_metrics.items()}
    return row | ({} if judge is None else dict(judge.scores(example, answer.text)))
