"""How good runs are on the held-out part, for the choices that a study makes on its way (`neftune.study.stages`)."""

import math

from neftune.analysis.effects import decision_of, pairing_effects
from neftune.analysis.judging import CHOSEN_ON
from neftune.analysis.metrics import FROM_PREFERENCES, NEEDS_JUDGE, gain_of, meaning_of
from neftune.analysis.pairing import pairings
from neftune.config import Recipe
from neftune.errors import ConfigError
from neftune.records import RunRecord, StudyResult


def check_choices(recipe: Recipe) -> None:
    """Refuse choices that could not be made while the study runs.

    Raises:
        ConfigError: A metric has no better direction, or needs a judge that is asked only after the runs.
    """
    study = recipe.study
    chosen_by = {"study.tune_by": study.tune_by} if study.nuisance else {}
    if study.confirm_seeds:
        chosen_by["study.decision.choose_by"] = study.decision.choose_by
    for knob, metric in chosen_by.items():
        is_rate = metric in FROM_PREFERENCES
        if meaning_of(metric, CHOSEN_ON).direction == "neither" or (is_rate and knob == "study.tune_by"):
            raise ConfigError(
                f"{knob} must be a score of a run's own answers with a better direction, got {metric!r}. "
                "Take one such as loss or quality."
            )
        if metric in NEEDS_JUDGE and recipe.evaluate.rule_judge is None:
            raise ConfigError(
                f"{knob} is needed while the study runs, got {metric!r}, which needs a judge then "
                f"(evaluate.judge: {recipe.evaluate.judge or 'null'}). Choose by loss, and judge by {metric!r}."
            )


class HeldOut:
    """Choices are made on the held-out part alone, by the metric that the recipe names."""

    def level(self, record: RunRecord, metric: str) -> float:
        """Mean of a score over a run's held-out examples, turned so that higher is better; NaN where it has none."""
        values = record.scores[CHOSEN_ON].values.get(metric, ()) if CHOSEN_ON in record.scores else ()
        known = [value for value in values if not math.isnan(value)]
        return gain_of(metric, CHOSEN_ON, math.fsum(known) / len(known)) if known else math.nan

    def gains(self, result: StudyResult, metric: str) -> dict[tuple[str, str], float]:
        """(block, arm) -> how much better than the baseline the arm is, above 0 better; only where it can be said.

        What an arm gains over the arm it is compared with and what that one gains over the baseline are added.
        """
        confidence = decision_of(result).confidence
        found = {
            (effect.block, effect.arm): (gain_of(metric, CHOSEN_ON, effect.estimate), effect.against)
            for pairing in pairings(result)
            for effect in pairing_effects(pairing, confidence=confidence, part=CHOSEN_ON, metric=metric)
        }
        return {
            (block, arm): gain + found.get((block, against), (0.0, ""))[0]
            for (block, arm), (gain, against) in found.items()
        }
