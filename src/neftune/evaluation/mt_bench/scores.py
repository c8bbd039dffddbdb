"""Mean grades by turn and category, with what they are means of."""

from collections.abc import Iterable
from dataclasses import dataclass

from neftune.evaluation.mt_bench.grading import Grade


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean score.

    Attributes:
        score: NaN where no score was read.
        num_scored: Scores behind it.
        num_unparsed: Verdicts without a score, left out.
        num_missing: Answers without a verdict, left out.
        num_out_of_range: Scores outside 1 to 10, taken as they are, as FastChat does.
    """

    score: float
    num_scored: int
    num_unparsed: int
    num_missing: int
    num_out_of_range: int


@dataclass(frozen=True, slots=True)
class MeanScores:
    """All means of one model.

    Attributes:
        overall: Over both turns' scores, FastChat's headline.
        turns: Over the first and the second turns.
        categories: Category -> over both turns, over the first, over the second.
    """

    overall: Mean
    turns: tuple[Mean, Mean]
    categories: dict[str, tuple[Mean, Mean, Mean]]


def mean_scores(grades: Iterable[Grade]) -> MeanScores:
    """The means; unparsed verdicts and missing ones are counted, never scored."""
    known = tuple(grades)

    def both(some: tuple[Grade, ...]) -> tuple[Mean, Mean, Mean]:
        first, second = (mean_of(one for one in some if one.turn == turn) for turn in (1, 2))
        return mean_of(some), first, second

    overall, first, second = both(known)
    names = dict.fromkeys(one.category for one in known)
    return MeanScores(
        overall, (first, second), {name: both(tuple(one for one in known if one.category == name)) for name in names}
    )


def mean_of(grades: Iterable[Grade]) -> Mean:
    """The mean of the scores that were read."""
    some = tuple(grades)
    scores = [one.score for one in some if one.score is not None]
    return Mean(
        score=sum(scores) / len(scores) if scores else float("nan"),
        num_scored=len(scores),
        num_unparsed=sum(one.score is None and one.judgment is not None for one in some),
        num_missing=sum(one.judgment is None for one in some),
        num_out_of_range=sum(not 1 <= score <= 10 for score in scores),
    )
