"""Judges: what an answer is worth, in numbers.

To add one, register a function that takes the data's settings and returns a `Judge`.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from neftune.config import DataConfig
from neftune.errors import ConfigError
from neftune.records import Example
from neftune.registry import Registry


@runtime_checkable
class Judge(Protocol):
    """Scores answers to the examples of one data set."""

    def scores(self, example: Example, answer: str) -> Mapping[str, float]:
        """Score names to numbers, the same names for every example; NaN where one is undefined.

        "quality" is always among them: of two answers to one example, the higher is the better. Every name stands
        there once more with "reference_" before it, for the example's reference answer.
        """
        ...


judges: Registry[Callable[[DataConfig], Judge]] = Registry("judge")


@judges.register("facts")
def facts(data: DataConfig) -> Judge:
    """The rule-based judge of the microworld: true facts told, less the errors.

    Raises:
        ConfigError: The data is not the microworld, whose truth alone is known.
    """
    from neftune.data.microworld import make_world
    from neftune.evaluation.facts import FactsJudge

    if data.source != "microworld":
        raise ConfigError(
            f"evaluate.judge 'facts' needs data.source 'microworld', got {data.source!r}. "
            "Set evaluate.judge to null, or judge the microworld."
        )
    return FactsJudge(make_world(data.seed))
