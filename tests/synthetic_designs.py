"""Studies of many arms with planted effects on one score, for tests of designs: nothing is trained, and it is fast."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neftune.config import Decision, Recipe, RunConfig, StudyConfig
from neftune.recipe import with_overrides
from neftune.records import (
    Answer,
    Failure,
    PlannedRun,
    RealisedNoise,
    RunRecord,
    Scores,
    Stage,
    StudyResult,
    content_hash,
)

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Luck:
    """Standard deviations: of a run; of an example's own response to an arm; of one example in one run."""

    run: float = 0.02
    example: float = 0.05
    noise: float = 0.05


def product(axes: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Every combination of the axes' values."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def name_of(setting: Setting) -> str:
    """An arm's name; the first setting without noise is the baseline."""
    return ", ".join(f"{knob.rsplit('.', 1)[-1]}={value}" for knob, value in setting.items())


def make_design(
    settings: Sequence[Setting],
    effect: Callable[[Setting], float],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    blocks: Sequence[str] = ("",),
    num_examples: int = 40,
    parts: Sequence[str] = ("heldout", "test"),
    luck: Luck | None = None,
    stage: Stage = "main",
    failed: Sequence[tuple[str, int]] = (),
    nuisance: Mapping[str, Any] | None = None,
    study: Mapping[str, Any] | None = None,
) -> StudyResult:
    """A finished stage whose arms are the settings and whose loss is 1 + effect + luck; the first is the baseline.

    Args:
        settings: Scientific knobs of every arm.
        effect: Added to an arm's loss.
        seeds, blocks, num_examples, parts: Its size.
        luck: Standard deviations.
        stage: Of every run.
        failed: (arm, seed) of runs that failed, in every block.
        nuisance: Nuisance knobs of every run.
        study: Settings of the recipe's study, beside seeds.
    """
    luck = luck or Luck()
    recipe = Recipe(
        name="design",
        study=StudyConfig.model_validate(
            {"decision": Decision(), "seeds": list(seeds), "scientific": {}, "arms": [dict(s) for s in settings]}
            | dict(study or {})
        ),
    ).model_dump(mode="json")
    planned: list[PlannedRun] = []
    records: dict[str, RunRecord] = {}
    failures: dict[str, Failure] = {}
    for block, (place, setting), seed in itertools.product(blocks, enumerate(settings), seeds):
        run = _planned(setting, block, seed, is_baseline=place == 0, stage=stage, nuisance=nuisance or {})
        planned.append(run)
        if (run.arm, seed) in failed:
            failures[run.run_id] = Failure(run.run_id, "DivergedError", "loss must stay finite, got nan at step 7.")
        else:
            scores = {part: _scores(run, part, effect(setting), luck, num_examples) for part in parts}
            records[run.run_id] = _record(run, setting, scores)
    return StudyResult(recipe, tuple(planned), records, failures)


def _planned(
    setting: Setting, block: str, seed: int, *, is_baseline: bool, stage: Stage, nuisance: Mapping[str, Any]
) -> PlannedRun:
    asked = float(setting.get("noise.alpha") or setting.get("noise.nsr") or 0)
    config = with_overrides(RunConfig().model_dump(mode="json"), {**setting, **nuisance, "seed": seed})
    arm = "baseline" if is_baseline else name_of(setting)
    return PlannedRun(
        content_hash([arm, block, seed, stage, dict(nuisance)]), arm, block, seed, config, is_baseline,
        stage=stage, setting=dict(setting), nuisance=dict(nuisance), is_noisy=asked > 0,
    )  # fmt: skip


def _scores(run: PlannedRun, part: str, effect: float, luck: Luck, num_examples: int) -> Scores:
    shared, of_arm, own = (
        np.random.default_rng(int(content_hash([part, *key], length=12), 16))
        for key in ([run.block], [run.block, run.arm], [run.run_id])
    )
    values = 1 + effect + 0.3 * shared.standard_normal(num_examples)
    values += luck.example * of_arm.standard_normal(num_examples)
    values += luck.run * own.standard_normal() + luck.noise * own.standard_normal(num_examples)
    ids = tuple(f"{run.block}/{part}/{index}" for index in range(num_examples))
    return Scores(ids, {"loss": tuple(map(float, values))})


def _record(run: PlannedRun, setting: Setting, scores: Mapping[str, Scores]) -> RunRecord:
    asked = float(setting.get("noise.alpha") or setting.get("noise.nsr") or 0)
    ratio = asked / 11 if "noise.alpha" in setting else asked
    noise = RealisedNoise(asked, asked, asked, ratio, 400, 9000, 25) if asked else None
    answers = {
        part: tuple(Answer(i, "prompt", "an answer", "a reference", 2, ended=True) for i in one.example_ids)
        for part, one in scores.items()
    }
    return RunRecord(
        run.run_id, run.config, (), noise, asked, {"steps": 25}, answers, dict(scores), {"neftune": "0"},
        {"finetune": 1.0}, "data",
    )  # fmt: skip
