"""All that a report rests on, computed once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from neftune.analysis.effects import Effect, decision_of, study_effects
from neftune.analysis.metrics import meaning_of
from neftune.analysis.verdict import CHOSEN_ON, JUDGED_ON, Verdict, decide, rule_in_words
from neftune.config import Decision
from neftune.errors import InputError
from neftune.records import StudyResult
from neftune.report.explored import Explored
from neftune.report.overview import Arm, Overview, mean
from neftune.report.runs import RunRow, run_rows


@dataclass(frozen=True)
class Evidence:
    """A study with its effects and its verdict.

    Attributes:
        study: All of it, every stage.
        overview: The stage that the verdict rests on (the latest one planned, while that is to come), by arm, block
            and seed.
        effects: Every effect.
        verdict: What the rule makes of them.
        rows: A row of means for every planned run.
        decision: The rule.
    """

    study: StudyResult
    overview: Overview
    effects: tuple[Effect, ...]
    verdict: Verdict
    rows: tuple[RunRow, ...]
    decision: Decision

    @property
    def confidence(self) -> str:
        """``95%``."""
        return f"{100 * self.decision.confidence:g}%"

    @cached_property
    def explored(self) -> Explored:
        """What the arms' own runs show together, whatever judges afterwards."""
        return Explored(self.study.at("main"))

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """Metrics that have an effect on the test part, in order of appearance."""
        return tuple(dict.fromkeys(effect.metric for effect in self.effects if effect.part == "test"))

    def level(self, arm: Arm, block: str, name: str) -> float:
        """An arm's own value on the test part; the baseline's stands in every effect of its block. NaN if unknown."""
        if arm.role == "baseline":
            of_block = (one for (place, _), one in self._tested.get(name, {}).items() if place == block)
            if first := next(of_block, None):
                return first.baseline_mean
        mine = self.tested(arm, block, name)
        return mine.arm_mean if mine else self.mean_of_runs(arm, block, name)

    def tested(self, arm: Arm, block: str, name: str) -> Effect | None:
        """An arm's effect on a metric on the test part; None where there is none."""
        return self._tested.get(name, {}).get((block, arm.name))

    @cached_property
    def _tested(self) -> Mapping[str, Mapping[tuple[str, str], Effect]]:
        """Metric -> (block, arm) -> effect on the test part."""
        found: dict[str, dict[tuple[str, str], Effect]] = {}
        for effect in self.effects:
            if effect.part == "test":
                found.setdefault(effect.metric, {})[effect.block, effect.arm] = effect
        return found

    def mean_of_runs(self, arm: Arm, block: str, name: str) -> float:
        """Mean of a run's number over an arm's finished runs in a block; NaN where none has it."""
        return mean(row.values.get(name, math.nan) for row in self._rows.get((block, arm.name), ()))

    @cached_property
    def _rows(self) -> Mapping[tuple[str, str], list[RunRow]]:
        found: dict[tuple[str, str], list[RunRow]] = {}
        for row in self.rows:
            found.setdefault((row.run.block, row.run.arm), []).append(row)
        return found

    def is_harm(self, effect: Effect) -> bool:
        """Whether an effect's interval lies wholly on the worse side of zero."""
        direction = meaning_of(effect.metric, effect.part).direction
        return effect.low > 0 if direction == "lower" else effect.high < 0 if direction == "higher" else False

    def is_gain(self, effect: Effect) -> bool:
        """Whether an effect's interval lies wholly on the better side of zero."""
        direction = meaning_of(effect.metric, effect.part).direction
        return effect.high < 0 if direction == "lower" else effect.low > 0 if direction == "higher" else False


_last: list[Evidence] = []


def gather(result: StudyResult) -> Evidence:
    """Effects, verdict and rows of a study, finished or not; kept until another study is asked for."""
    if not _last or _last[0].study is not result:
        _last[:] = [_gathered(result)]
    return _last[0]


def _gathered(result: StudyResult) -> Evidence:
    stages = {run.stage for run in result.planned}
    shown = result.judged_stage if result.judged_stage in stages else "main" if "main" in stages else "tune"
    overview, rule = Overview(result.at(shown)), decision_of(result)
    effects = study_effects(overview.result)
    try:
        verdict = decide(result, effects)
    except InputError as error:
        verdict = _no_verdict(result, error)
    return Evidence(result, overview, effects, verdict, run_rows(overview), rule)


def _no_verdict(study: StudyResult, error: InputError) -> Verdict:
    """The verdict of a study whose rule cannot be applied: the numbers are shown all the same."""
    rule = decision_of(study)
    return Verdict(
        kind="incomplete",
        arm=None,
        alpha={},
        nsr=None,
        sentence=f"No verdict: {error}",
        reasons=(),
        chosen_on=(CHOSEN_ON, rule.choose_by),
        judged_on=(JUDGED_ON, rule.judge_by),
        rule=rule_in_words(rule, confirmed=study.judged_stage == "confirm"),
        confidence=rule.confidence,
    )
