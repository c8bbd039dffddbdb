"""Studies played through their stages without training: the held-out loss is a given function of the settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neftune.analysis.choosing import HeldOut
from neftune.config import Recipe, RunConfig
from neftune.records import Failure, PlannedRun, RunRecord, Scores, StudyResult
from neftune.study.plan import Identify, Planner
from neftune.study.stages import SoFar, plan_so_far

NUM_EXAMPLES = 8

Loss = Callable[[RunConfig], float | None]
"""Mean held-out loss of a run with these settings; None where it fails."""


def identify() -> Identify:
    """Ids that depend on the settings alone."""
    return Identify(data_fingerprint=lambda _: "d", model_fingerprint=lambda _: "m", code_version="c")


def plan_of(recipe: Recipe, ids: Identify | None = None) -> SoFar:
    """What is known of a study before anything has run."""
    return plan_so_far(recipe, Planner(recipe, ids or identify()), World(lambda _: None).unrun, HeldOut())


def record_of(run: PlannedRun, loss: float) -> RunRecord:
    """A finished run whose examples' losses differ from each other, with the mean that was asked for."""
    parts = RunConfig.model_validate(run.config).evaluate.parts
    ids = tuple(f"e{i}" for i in range(NUM_EXAMPLES))
    luck = int(run.run_id[:8], 16)
    wiggle = [(luck * (i + 3) % 101 - 50) * 1e-5 for i in range(NUM_EXAMPLES)]
    mean = sum(wiggle) / NUM_EXAMPLES
    values = tuple(loss + 0.1 * i - 0.35 + w - mean for i, w in enumerate(wiggle))
    scores = {part: Scores(ids, {"loss": values}) for part in parts}
    return RunRecord(run.run_id, run.config, (), None, 1.0, {}, {}, scores, {}, {}, "d")


@dataclass
class World:
    """Runs whatever is planned, at once.

    Attributes:
        loss: What a run's held-out loss is.
        records, failures: What has run.
    """

    loss: Loss
    records: dict[str, RunRecord] = field(default_factory=dict[str, RunRecord])
    failures: dict[str, Failure] = field(default_factory=dict[str, Failure])

    def perform(self, planned: Sequence[PlannedRun]) -> None:
        """Run all that has not run."""
        for run in planned:
            loss = self.loss(RunConfig.model_validate(run.config))
            if loss is None:
                self.failures[run.run_id] = Failure(run.run_id, "DivergedError", "the loss became NaN.")
            else:
                self.records[run.run_id] = record_of(run, loss)

    def unrun(self, planned: Sequence[PlannedRun]) -> StudyResult:
        """What there is of some runs."""
        return self.of({}, planned)

    def of(self, recipe: Mapping[str, Any], planned: Sequence[PlannedRun]) -> StudyResult:
        """The same as part of a study."""
        ids = {run.run_id for run in planned}
        return StudyResult(
            recipe,
            tuple(planned),
            {key: one for key, one in self.records.items() if key in ids},
            {key: one for key, one in self.failures.items() if key in ids},
        )


def play(recipe: Recipe, loss: Loss) -> tuple[list[SoFar], StudyResult]:
    """Every state of a study's plan, and its result."""
    world, planner, values = World(loss), Planner(recipe, identify()), recipe.model_dump(mode="json")
    states: list[SoFar] = []
    while not states or states[-1].to_come:
        states.append(plan_so_far(recipe, planner, lambda planned: world.of(values, planned), HeldOut()))
        world.perform(states[-1].planned)
        assert len(states) < 20
    result = world.of(values, states[-1].planned)
    return states, StudyResult(result.recipe, result.planned, result.records, result.failures, notes=states[-1].notes)
