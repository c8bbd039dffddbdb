"""A study laid out for showing: arms with their colours, blocks, seeds, and the run at each corner."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from neftune.records import Answer, Failure, PlannedRun, RunRecord, Stage, StudyResult

BASELINE_COLOUR = ("#5f6b7a", "#b4bfcc")
CONTROL_COLOURS = (("#8a6a3d", "#cfae7e"), ("#6b5b95", "#b7a8de"))
ARM_COLOURS = (
    ("#0072b2", "#56b4f5"),
    ("#d55e00", "#ff9148"),
    ("#00865f", "#35d0a0"),
    ("#b3548a", "#ee9fcb"),
    ("#8f6f00", "#e6c84c"),
    ("#2a7f9e", "#86d3ee"),
)
"""(light, dark) pairs after Okabe and Ito, shifted to 3:1 contrast on both backgrounds."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon")


STAGES: Mapping[Stage, str] = {"tune": "tuning", "main": "comparing arms", "confirm": "confirming"}
"""Stages as readers call them."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm as every figure and table shows it.

    Attributes:
        name: The arm's name.
        index: Position in the report's order: baseline, arms, controls.
        role: "baseline", "arm" or "control".
        colours: Hex colours on a light and on a dark background.
        symbol: Plotly marker, so that colour is never the only distinction.
    """

    name: str
    index: int
    role: str
    colours: tuple[str, str]
    symbol: str

    @property
    def colour(self) -> str:
        """The colour on a light background."""
        return self.colours[0]


@dataclass(frozen=True)
class Overview:
    """A study result with quick access by arm, block and seed."""

    result: StudyResult

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """Every planned arm: the baseline first, controls last, else in the order of the plan."""
        order: dict[str, PlannedRun] = {}
        for run in self.result.planned:
            order.setdefault(run.arm, run)
        ranked = sorted(order.values(), key=lambda run: (not run.is_baseline, run.is_control))
        return tuple(_arms(ranked))

    @property
    def baseline(self) -> Arm | None:
        """The arm the others are compared with; None where the plan has none."""
        return next((arm for arm in self.arms if arm.role == "baseline"), None)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Planned blocks in the order of the plan."""
        return tuple(dict.fromkeys(run.block for run in self.result.planned))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Planned seeds, sorted."""
        return tuple(sorted({run.seed for run in self.result.planned}))

    @cached_property
    def runs(self) -> Mapping[tuple[str, str, int], RunRecord]:
        """Finished runs by (arm, block, seed)."""
        return {
            (run.arm, run.block, run.seed): self.result.records[run.run_id]
            for run in self.result.planned
            if run.run_id in self.result.records
        }

    def of_arm(self, arm: Arm, *, block: str | None = None) -> list[RunRecord]:
        """Finished runs of an arm, of one block or of all."""
        return self._by_arm.get((arm.name, block), [])

    @cached_property
    def _by_arm(self) -> Mapping[tuple[str, str | None], list[RunRecord]]:
        found: dict[tuple[str, str | None], list[RunRecord]] = {}
        for (name, block, _), record in self.runs.items():
            found.setdefault((name, block), []).append(record)
            found.setdefault((name, None), []).append(record)
        return found

    @cached_property
    def _plan(self) -> Mapping[tuple[str, str, int], PlannedRun]:
        return {(run.arm, run.block, run.seed): run for run in self.result.planned}

    def corners(self, only: str | None = None) -> Iterator[tuple[str, Arm, int, PlannedRun]]:
        """Every planned (block, arm, seed) with its plan, blocks first, in the report's order; of one block or all."""
        plan = self._plan
        for block in self.blocks if only is None else (only,):
            for arm in self.arms:
                for seed in self.seeds:
                    if (arm.name, block, seed) in plan:
                        yield block, arm, seed, plan[arm.name, block, seed]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Score names of the test part over all finished runs, in order of appearance."""
        names: dict[str, None] = {}
        for record in self.runs.values():
            for part in record.scores.values():
                names.update(dict.fromkeys(part.values))
        return tuple(name for name in names if not name.startswith("reference_"))

    @cached_property
    def has_judge(self) -> bool:
        """Whether any finished run was judged."""
        return any("quality" in scores.values for record in self.runs.values() for scores in record.scores.values())

    @property
    def has_blocks(self) -> bool:
        """Whether the study has named blocks."""
        return self.blocks not in ((), ("",))


def _arms(runs: list[PlannedRun]) -> Iterator[Arm]:
    num_arms = num_controls = 0
    for index, run in enumerate(runs):
        if run.is_baseline:
            yield Arm(run.arm, index, "baseline", BASELINE_COLOUR, "circle-open")
        elif run.is_control:
            yield Arm(run.arm, index, "control", CONTROL_COLOURS[num_controls % len(CONTROL_COLOURS)], "x")
            num_controls += 1
        else:
            colours, symbol = ARM_COLOURS[num_arms % len(ARM_COLOURS)], SYMBOLS[num_arms % len(SYMBOLS)]
            yield Arm(run.arm, index, "arm", colours, symbol)
            num_arms += 1


def lost_runs(result: StudyResult) -> tuple[list[tuple[PlannedRun, Failure]], list[PlannedRun]]:
    """Runs that failed, with what happened, and runs that neither finished nor failed; of every stage."""
    failed = [(run, result.failures[run.run_id]) for run in result.planned if run.run_id in result.failures]
    waiting = [run for run in result.planned if run.run_id not in result.failures and run.run_id not in result.records]
    return failed, waiting


def mean(values: Iterable[float]) -> float:
    """Mean of the numbers that are there; NaN where there is none."""
    present = [value for value in values if not math.isnan(value)]
    return math.fsum(present) / len(present) if present else math.nan


def score_mean(record: RunRecord, part: str, name: str) -> float:
    """Mean of a score over one part of a run; NaN where the run does not have it."""
    scores = record.scores.get(part)
    return mean(scores.values.get(name, ())) if scores else math.nan


def verbatim_share(answers: Iterable[Answer]) -> float:
    """Share of answers that are the reference word for word, whitespace apart; NaN without answers."""
    return mean(float(answer.text.split() == answer.reference.split()) for answer in answers)
