"""A study judged by a model after its runs: which answers are compared, and what the judge preferred."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.config import RunConfig
from neftune.errors import DataError
from neftune.records import Answer, Example, PlannedRun, RunRecord, StudyResult, baseline_runs

if TYPE_CHECKING:
    from neftune.evaluation.outputs import Outputs

Preferences = Mapping[tuple[str, str], Mapping[str, float]]

FILE = "judged.json"
"""In the study's folder: the judge, and its preferences by comparison."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run's answers beside those of the run it is compared with, of its block and seed.

    Attributes:
        part: The part that was asked.
        baseline, run: Who answered.
        baseline_outputs, outputs: What they said, in one order.
    """

    part: str
    baseline: PlannedRun
    run: PlannedRun
    baseline_outputs: "Outputs"
    outputs: "Outputs"

    @property
    def name(self) -> str:
        """Of its file: part, arm, block and seed."""
        return ", ".join(filter(None, (self.part, self.run.arm, self.run.block, f"seed={self.run.seed}")))


def comparisons(result: StudyResult, parts: Sequence[str]) -> tuple[Comparison, ...]:
    """Every finished run beside its finished baseline, on every part.

    Answers that one of the two lacks (its prompt filled the context) are left out.

    Args:
        result: The study, its control variants expanded or not.
        parts: Parts that are judged.

    Raises:
        DataError: Nothing can be compared, or a run has no answers of a part.
    """
    twins = baseline_runs(result)
    made: list[Comparison] = []
    for run in result.planned:
        baseline = twins.get(run.run_id)
        if baseline is None:
            continue
        ours, theirs = (result.records.get(one.run_id) for one in (run, baseline))
        if ours is not None and theirs is not None:
            made += [_comparison(part, (baseline, theirs), (run, ours)) for part in parts if part in ours.answers]
    if not made:
        raise DataError(
            f"judging a study needs a finished baseline and a finished run beside it with answers of "
            f"{' or '.join(parts)}, got none. Run the study, or name its parts with --part."
        )
    return tuple(made)


def _comparison(part: str, baseline: tuple[PlannedRun, RunRecord], run: tuple[PlannedRun, RunRecord]) -> Comparison:
    answers = [{one.example_id: one for one in record.answers.get(part, ())} for _, record in (baseline, run)]
    shared = [key for key in answers[0] if key in answers[1]]
    if not shared:
        raise DataError(f"{run[0].arm} and the baseline must have answers to the same {part} prompts, got none.")
    examples = _examples(RunConfig.model_validate(run[1].config), part)
    sides = [_outputs([side[key] for key in shared], one.arm, examples) for side, (one, _) in zip(
        answers, (baseline, run), strict=True
    )]  # fmt: skip
    return Comparison(part, baseline[0], run[0], *sides)


def _examples(config: RunConfig, part: str) -> Mapping[str, Example]:
    """The examples as they were asked, without the template around them."""
    from neftune.study.data import load_run_data

    parts: Mapping[str, tuple[Example, ...]] = {**load_run_data(config.data).parts}
    return {one.id: one for one in parts.get(part, ())}


def _outputs(answers: Sequence[Answer], arm: str, examples: Mapping[str, Example]) -> "Outputs":
    from neftune.evaluation.outputs import outputs_of_answers

    asked = [replace(one, prompt=_question(examples.get(one.example_id), one.prompt)) for one in answers]
    return outputs_of_answers(asked, arm)


def _question(example: Example | None, rendered: str) -> str:
    """What the user asked; a conversation of several turns as the model read it."""
    if example is None or len(example.turns) != 2:
        return rendered
    question = example.turns[0].content
    return f"{question}\n\n{example.input}" if example.input else question


def merged(result: StudyResult, judge: str, preferences: Preferences) -> Preferences:
    """What a judge preferred now, beside what the same judge preferred before on other parts."""
    parts = {part for part, _ in preferences}
    kept = {key: one for key, one in result.judged.items() if result.judged_by == judge and key[0] not in parts}
    return {**kept, **preferences}


def judged_data(judge: str, preferences: Preferences) -> dict[str, Any]:
    """What a judge preferred, as the plain data that `with_judged` reads."""
    rows = [
        {
            "part": part,
            "run_id": run_id,
            "preferences": {key: None if math.isnan(value) else value for key, value in values.items()},
        }
        for (part, run_id), values in preferences.items()
    ]
    return {"judge": judge, "comparisons": rows}


def with_judged(result: StudyResult, folder: Path) -> StudyResult:
    """The study with what a judge preferred, where its folder says so.

    Raises:
        StoreError: The file is broken.
    """
    from neftune.study.store import read_json

    path = folder / FILE
    if not path.is_file():
        return result
    values = read_json(path)
    return replace(result, judged=dict(_preferences(values)), judged_by=str(values["judge"]))


def _preferences(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, float]]]:
    for row in values["comparisons"]:
        found = {key: math.nan if one is None else float(one) for key, one in row["preferences"].items()}
        yield (row["part"], row["run_id"]), found
