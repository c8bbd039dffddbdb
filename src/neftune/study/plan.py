"""From a recipe to its runs, each named by the hash of everything that determines its result."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from neftune.config import Control, DataConfig, EvaluateConfig, KnobValue, NoiseConfig, Recipe, RunConfig
from neftune.errors import ConfigError
from neftune.recipe import knob_names, validate, with_overrides
from neftune.records import PlannedRun, content_hash
from neftune.registry import unknown_name

Setting = Mapping[str, KnobValue]

_LABELS = {"data.seed": "world", "model.path": "model", "data.source": "data"}
"""Knobs whose last word would not say what an arm or a block is."""


def make_plan(
    recipe: Recipe,
    *,
    data_fingerprint: Callable[[DataConfig], str],
    model_fingerprint: Callable[[RunConfig], str],
    evaluation_fingerprint: Callable[[EvaluateConfig], str] = lambda _: "",
    code_version: str,
) -> tuple[PlannedRun, ...]:
    """Every run of a recipe, in an order that lets blocks advance side by side.

    Args:
        recipe: What to run.
        data_fingerprint: Hash of the examples that a data configuration gives.
        model_fingerprint: Hash of the weights that a run starts from.
        evaluation_fingerprint: Hash of the files that an evaluation reads beside the data.
        code_version: Hash of the code and libraries that determine a result.

    Raises:
        ConfigError: An axis names no knob, arms repeat, or there is not exactly one noiseless arm.
    """
    planner = _Planner(
        recipe,
        lambda config: run_id(
            config,
            data=data_fingerprint(config.data),
            model=model_fingerprint(config),
            evaluation=evaluation_fingerprint(config.evaluate),
            code_version=code_version,
        ),
    )
    arms = _product(recipe.study.scientific)
    blocks = _product(recipe.study.blocks)
    _check(recipe, arms)
    planned: list[PlannedRun] = []
    for seed in recipe.study.seeds:
        for arm in arms:
            planned += [planner.run(arm, block, seed) for block in blocks]
    for seed in recipe.study.seeds:
        for control in recipe.study.controls:
            planned += [planner.control(control, block, seed, arms) for block in blocks]
    labels = [(run.block, run.arm, run.seed) for run in planned]
    if len(set(labels)) != len(labels):
        raise ConfigError(f"arms and blocks need names of their own, got some twice: {sorted(set(labels))}.")
    return tuple(planned)


def setting_name(setting: Setting) -> str:
    """An arm's or a block's name: {"noise.nsr": 0.3} -> "nsr=0.3"."""
    return ", ".join(
        f"{_LABELS.get(knob, knob.rsplit('.', 1)[-1])}={_number(value)}" for knob, value in setting.items()
    )


class _Planner:
    """Builds the planned runs of one recipe."""

    def __init__(self, recipe: Recipe, identify: Callable[[RunConfig], str]) -> None:
        self.base = recipe.model_dump(mode="json", exclude={"name", "question", "study"})
        self.identify = identify

    def run(self, arm: Setting, block: Setting, seed: int) -> PlannedRun:
        """One arm with one seed in one block."""
        config = _run_config(with_overrides(self.base, {**block, **arm, "seed": seed}))
        name = "baseline" if config.noise.is_off else setting_name(arm)
        return self._planned(config, name, setting_name(block), is_baseline=config.noise.is_off)

    def control(self, control: Control, block: Setting, seed: int, arms: list[Setting]) -> PlannedRun:
        """The baseline of a block and seed, changed as the control says."""
        twin = next((arm for arm in arms if dict(arm) == dict(control.match)), None)
        if twin is None:
            raise ConfigError(
                f"a control's match must be one of the arms {[dict(arm) for arm in arms]}, got {dict(control.match)}."
            )
        noisy = self.run(twin, block, seed)
        if noisy.is_baseline:
            raise ConfigError(f"a control must match a noisy arm, got the baseline {dict(control.match)}.")
        baseline = next(arm for arm in arms if _is_off({**self.base}, arm))
        config = _run_config(
            with_overrides(self.base, {**block, **baseline, "seed": seed, "stop_at_train_loss_of": noisy.run_id})
        )
        return self._planned(
            config, f"stopped at train loss of {noisy.arm}", noisy.block, is_control=True, after=noisy.run_id
        )

    def _planned(
        self,
        config: RunConfig,
        arm: str,
        block: str,
        *,
        is_baseline: bool = False,
        is_control: bool = False,
        after: str | None = None,
    ) -> PlannedRun:
        return PlannedRun(
            run_id=self.identify(config),
            arm=arm,
            block=block,
            seed=config.seed,
            config=config.model_dump(mode="json"),
            is_baseline=is_baseline,
            is_control=is_control,
            after=after,
        )


def run_id(config: RunConfig, *, data: str, model: str, code_version: str, evaluation: str = "") -> str:
    """Hash of everything that determines a run's result."""
    determining = {"config": config.model_dump(mode="json"), "data": data, "model": model, "code": code_version}
    return content_hash(determining | ({"evaluation": evaluation} if evaluation else {}))


def _run_config(values: Mapping[str, Any]) -> RunConfig:
    """A validated run; every way to say "no noise" is the same run, so that baselines are shared."""
    config = validate(RunConfig, values, source="the study's axes")
    if config.noise.is_off:
        return config.model_copy(update={"noise": NoiseConfig(alpha=0.0, nsr=None)})
    return config


def _is_off(base: Mapping[str, Any], arm: Setting) -> bool:
    return _run_config(with_overrides(base, arm)).noise.is_off


def _product(axes: Mapping[str, list[KnobValue]]) -> list[Setting]:
    """Every combination of the axes' values; one empty setting where there is no axis."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _check(recipe: Recipe, arms: list[Setting]) -> None:
    known = [name for name in knob_names(RunConfig) if name not in ("seed", "stop_at_train_loss_of")]
    for knob in [*recipe.study.scientific, *recipe.study.blocks]:
        if knob not in known:
            raise ConfigError(unknown_name("an axis of the study", knob, known))
    for axis, values in {**recipe.study.scientific, **recipe.study.blocks}.items():
        if len(set(map(str, values))) != len(values) or not values:
            raise ConfigError(f"an axis needs one or more different values, got {axis}: {values}.")
    if len(set(recipe.study.seeds)) != len(recipe.study.seeds):
        raise ConfigError(f"study.seeds must differ from each other, got {recipe.study.seeds}.")
    base = recipe.model_dump(mode="json", exclude={"name", "question", "study"})
    baselines = [arm for arm in arms if _is_off(base, arm)]
    if len(baselines) != 1:
        raise ConfigError(
            "study.scientific must give exactly one arm without noise (alpha or nsr 0), the baseline; "
            f"got {len(baselines)} of {len(arms)} arms: {[dict(arm) for arm in baselines]}."
        )


def _number(value: KnobValue) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)
