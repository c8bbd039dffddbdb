"""Studies that a report must render whatever they lack or carry."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from neftune.config import Decision
from neftune.records import StudyResult
from tests.report.conftest import SMALL
from tests.synthetic import BASELINE, make_study

ONE = {"seeds": (0,), "blocks": ("",), "control": False, "sizes": SMALL}
WORLDS = ("world=0", "world=1")
BY_WINS = Decision(choose_by="lc_win_rate", judge_by="lc_win_rate")


def _all_failed() -> StudyResult:
    arms = (BASELINE, "nsr=0.3")
    return make_study(**ONE, arms=arms[1:], failed=[(arm, "", 0) for arm in arms])


def _no_baseline() -> StudyResult:
    return make_study(sizes=SMALL, missing=[(BASELINE, block, seed) for block in WORLDS for seed in (0, 1, 2)])


def _without_answers() -> StudyResult:
    study = make_study(**ONE, arms=("nsr=0.3",), judge=False)
    records = {key: replace(record, answers={}, history=()) for key, record in study.records.items()}
    return replace(study, records=records)


ODD: Mapping[str, Callable[[], StudyResult]] = {
    "hostile": lambda: make_study(hostile=True, sizes=SMALL, failed=[("nsr=0.3", "world=0", 1)]),
    "one seed": lambda: make_study(seeds=(0,), sizes=SMALL),
    "one block": lambda: make_study(blocks=("",), sizes=SMALL),
    "one arm": lambda: make_study(**ONE, arms=()),
    "one run each": lambda: make_study(**ONE, arms=("alpha=5",)),
    "no judge": lambda: make_study(judge=False, sizes=SMALL),
    "rule without its metric": lambda: make_study(judge=False, decision=BY_WINS, sizes=SMALL),
    "some failed": lambda: make_study(
        sizes=SMALL, failed=[("nsr=0.6", "world=1", 2)], missing=[("nsr=1.0", "world=0", 0)]
    ),
    "all failed": _all_failed,
    "no answers to compare": lambda: make_study(**ONE, arms=("nsr=0.3",), judge=False),
    "no baseline": _no_baseline,
    "nothing yet": lambda: replace(make_study(**ONE, arms=("nsr=0.3",)), records={}),
    "no answers and no history": _without_answers,
    "one example": lambda: make_study(sizes={"train": 1, "heldout": 1, "test": 1}),
    "eight arms": lambda: make_study(**ONE, arms=tuple(f"nsr=0.{i}" for i in range(1, 9))),
}
"""By what is odd about them."""
