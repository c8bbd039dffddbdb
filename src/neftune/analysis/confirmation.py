"""What a study with confirmation seeds says of its choice: which data chose, and which judged."""

import math

from neftune.analysis.choosing import HeldOut
from neftune.analysis.judging import CHOSEN_ON, JUDGED_ON
from neftune.analysis.wording import metric_phrase, number
from neftune.config import Decision
from neftune.records import Stage, StudyResult


def to_come_reason(study: StudyResult) -> str:
    """Why the runs that judge are not all known yet; "" where they are."""
    waits: dict[Stage, str] = {
        "main": "the arms' own runs are planned once their nuisance knobs are tuned",
        "confirm": "the confirmation runs are planned once an arm is chosen",
    }
    return next((f"{waits[stage]}. Run the study again." for stage in study.to_come), "")


def confirmation_reasons(study: StudyResult, rule: Decision) -> list[str]:
    """Which runs chose the arm, and which judged it; empty without confirmation seeds."""
    if study.judged_stage != "confirm":
        return []
    main, confirm = study.at("main"), study.at("confirm")
    gains = HeldOut().gains(main, rule.choose_by)
    noisy = {(run.block, run.arm) for run in main.planned if run.is_noisy and not run.is_control}
    said: list[str] = []
    for block in dict.fromkeys(run.block for run in confirm.planned):
        chosen = next(run for run in confirm.planned if run.block == block and run.is_noisy and not run.is_control)
        arm = next((run.arm for run in main.planned if run.setting == chosen.setting), chosen.arm)
        tried = [one for one in noisy if one[0] == block and not math.isnan(gains.get(one, math.nan))]
        place = f" in {block}" if block else ""
        said.append(
            f"Chosen{place} from {len(tried)} noisy arms with seeds {_seeds(main)}, which saw the {CHOSEN_ON} part "
            f"alone: {arm}, gain {number(gains.get((block, arm), math.nan))} in {metric_phrase(rule.choose_by)}. "
            f"Judged on the {JUDGED_ON} part with seeds {_seeds(confirm)}, which chose nothing, so that no correction "
            "for the choice is due."
        )
    return said


def _seeds(result: StudyResult) -> str:
    return ", ".join(map(str, sorted({run.seed for run in result.planned})))
