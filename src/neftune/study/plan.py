"""From an arm, a block and a seed to a run, named by the hash of everything that determines its result."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from neftune.config import DataConfig, EvaluateConfig, Knobs, Recipe, RunConfig
from neftune.recipe import with_overrides
from neftune.records import PlannedRun, Stage, content_hash
from neftune.study.arms import Arm, Setting, run_config, setting_name, settings_of

K = TypeVar("K", bound=Knobs)


class Identify:
    """Names runs by what determines their results; each fingerprint is taken once.

    Args:
        data_fingerprint: Hash of the examples that a data configuration gives.
        model_fingerprint: Hash of the weights that a run starts from.
        evaluation_fingerprint: Hash of the files that an evaluation reads beside the data.
        code_version: Hash of the code and libraries that determine a result.
    """

    def __init__(
        self,
        *,
        data_fingerprint: Callable[[DataConfig], str],
        model_fingerprint: Callable[[RunConfig], str],
        evaluation_fingerprint: Callable[[EvaluateConfig], str] = lambda _: "",
        code_version: str,
    ) -> None:
        # Settings are told apart by their text, as they hold lists.
        self._data = functools.cache(_of_text(DataConfig, data_fingerprint))
        self._evaluation = functools.cache(_of_text(EvaluateConfig, evaluation_fingerprint))
        self._models: dict[tuple[str, ...], str] = {}
        self._model = model_fingerprint
        self._code = code_version

    def __call__(self, config: RunConfig) -> str:
        """The run's id."""
        # The fingerprint names the libraries of the optimiser and of quantised weights too.
        model = (
            config.model.path,
            config.data.model_dump_json(),
            config.train.optimizer,
            config.model.quantization or "",
        )
        if model not in self._models:
            self._models[model] = self._model(config)
        return run_id(
            config,
            data=self._data(config.data.model_dump_json()),
            model=self._models[model],
            evaluation=self._evaluation(config.evaluate.model_dump_json()),
            code_version=self._code,
        )


class Planner:
    """Builds the planned runs of one recipe.

    Args:
        recipe: What to run.
        identify: Gives a run its id.
    """

    def __init__(self, recipe: Recipe, identify: Callable[[RunConfig], str]) -> None:
        self.recipe = recipe
        self.base = settings_of(recipe)
        self.identify = identify

    def run(self, arm: Arm, block: Setting, seed: int, *, stage: Stage, nuisance: Setting) -> PlannedRun:
        """One arm with one seed in one block.

        Args:
            arm: Its scientific knobs.
            block: The block's knobs.
            seed: Pairs it with other arms.
            stage: What the run is for: what never judges is never asked the test part.
            nuisance: Nuisance knobs with their values.
        """
        values = with_overrides(self.base, {**block, **nuisance, **arm.setting, "seed": seed})
        values["evaluate"] = _asked_at(stage, values["evaluate"], confirmed=bool(self.recipe.study.confirm_seeds))
        config = run_config(values)
        return PlannedRun(
            run_id=self.identify(config),
            arm=arm.name,
            block=setting_name(block),
            seed=seed,
            config=config.model_dump(mode="json"),
            is_baseline=arm.is_baseline,
            stage=stage,
            setting=dict(arm.setting),
            nuisance=dict(nuisance),
            against=arm.against,
            is_noisy=arm.is_noisy,
        )

    def control(self, baseline: PlannedRun, noisy: PlannedRun) -> PlannedRun:
        """The baseline's run, stopped at the clean training loss that its noisy twin ended with."""
        config = RunConfig.model_validate({**baseline.config, "stop_at_train_loss_of": noisy.run_id})
        return PlannedRun(
            run_id=self.identify(config),
            arm=f"stopped at train loss of {noisy.arm}",
            block=baseline.block,
            seed=baseline.seed,
            config=config.model_dump(mode="json"),
            is_control=True,
            after=noisy.run_id,
            stage=baseline.stage,
            setting=baseline.setting,
            nuisance=baseline.nuisance,
            against=baseline.arm,
            is_noisy=False,
        )


def _of_text(kind: type[K], fingerprint: Callable[[K], str]) -> Callable[[str], str]:
    def of_text(text: str) -> str:
        return fingerprint(kind.model_validate_json(text))

    return of_text


def run_id(config: RunConfig, *, data: str, model: str, code_version: str, evaluation: str = "") -> str:
    """Hash of everything that determines a run's result."""
    determining = {"config": config.model_dump(mode="json"), "data": data, "model": model, "code": code_version}
    return content_hash(determining | ({"evaluation": evaluation} if evaluation else {}))


def _asked_at(stage: Stage, evaluate: Mapping[str, Any], *, confirmed: bool) -> dict[str, Any]:
    """What a run is asked: tuning asks the held-out part alone, and nothing before a confirmation the test part."""
    if stage == "tune":
        parts: list[str] = ["heldout"]
    elif stage == "main" and confirmed:
        parts = [part for part in evaluate["parts"] if part != "test"]
    else:
        return dict(evaluate)
    return {**evaluate, "parts": parts, "variants": [], "benchmarks": {}}
