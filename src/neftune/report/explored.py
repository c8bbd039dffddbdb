"""What the arms' own runs show together: factorials and dose-responses, computed once and only where asked for."""

from dataclasses import dataclass
from functools import cached_property

from neftune.analysis.designs import Design, find_design
from neftune.analysis.dose_response import DoseResponse, dose_responses
from neftune.analysis.effects import decision_of
from neftune.analysis.factorial import Factorial, factorial
from neftune.records import StudyResult


@dataclass(frozen=True)
class Explored:
    """The stage in which arms are compared, whatever judges afterwards.

    Attributes:
        result: Its runs.
    """

    result: StudyResult

    @cached_property
    def part(self) -> str:
        """Where its arms can be compared: the test part, or the held-out part where these runs did not see it."""
        records = (self.result.records[run.run_id] for run in self.result.planned if run.run_id in self.result.records)
        first = next(records, None)
        return "test" if first is not None and "test" in first.scores else "heldout"

    @property
    def confidence(self) -> float:
        """Of every interval."""
        return decision_of(self.result).confidence

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is asked about: the metrics of the rule, and the loss."""
        rule = decision_of(self.result)
        controlled = ("lc_win_rate_vs_reference",) if "lc_win_rate" in (rule.judge_by, rule.choose_by) else ()
        return tuple(dict.fromkeys((rule.judge_by, rule.choose_by, *controlled, "loss", *rule.harm_by)))

    @cached_property
    def design(self) -> Design | None:
        """The factorial that the arms form; None where they form none."""
        return find_design(self.result)

    @cached_property
    def factorials(self) -> tuple[Factorial, ...]:
        """Main effects and interactions by metric and block."""
        if self.design is None:
            return ()
        asked = {"part": self.part, "confidence": self.confidence, "design": self.design}
        return tuple(one for metric in self.metrics for one in factorial(self.result, metric=metric, **asked))

    @cached_property
    def dose_responses(self) -> tuple[DoseResponse, ...]:
        """Doses by metric and block."""
        asked = {"part": self.part, "confidence": self.confidence}
        return tuple(one for metric in self.metrics for one in dose_responses(self.result, metric=metric, **asked))
