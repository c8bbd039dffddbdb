"""The arms of a recipe: what is compared, with what, and within which blocks.

    scientific: {noise.alpha: [0, 5], train.weight_decay: [0, 0.1]}    ->  4 arms, a factorial
    arms: [{noise.alpha: 0}, {noise.alpha: 5, train.epochs: 5}]        ->  these two
    search: {knob: noise.alpha, low: 0.1, high: 100, points: 4}        ->  0, 0.1, 1, 10, 100

The baseline is the first arm without noise. A noisy arm is compared with the arm that lacks its noise alone, where the
study has it, so that what is measured is the noise; every other arm is compared with the baseline.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neftune.config import KnobValue, NoiseConfig, Recipe, RunConfig, StudyConfig
from neftune.errors import ConfigError
from neftune.recipe import knob_names, mapping_knobs, validate, with_overrides
from neftune.records import content_hash
from neftune.registry import unknown_name

Setting = Mapping[str, KnobValue]

BASELINE = "baseline"

BLOCK_KNOBS = (
    "model.path",
    "data.source",
    "data.seed",
    "data.test_prompts",
    "data.num_heldout",
    "data.num_test",
)
"""Knobs that change the model or what it is asked: their values are blocks, for no pair of prompts is shared."""

NOT_AXES = ("seed", "stop_at_train_loss_of", "evaluate.parts")
"""Settings that are the study's own to make: its seeds, its controls, and the parts that a stage may see."""

_LABELS = {
    "data.seed": "world",
    "model.path": "model",
    "data.source": "data",
    "model.lora.alpha": "LoRA alpha",
    "model.lora.dropout": "LoRA dropout",
}
"""Knobs whose last word would not say what an arm or a block is."""

_REGULARIZERS = "train.regularizers."


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting of what the study asks about.

    Attributes:
        name: "baseline", or the setting in words.
        setting: Dotted knobs with their values.
        is_baseline: Whether it is the arm that the others are measured from.
        is_noisy: Whether it has noise.
        against: Name of the arm it is compared with.
    """

    name: str
    setting: Setting
    is_baseline: bool
    is_noisy: bool
    against: str = BASELINE


def arms_of(recipe: Recipe) -> tuple[Arm, ...]:
    """Every arm that the recipe names, the baseline first among those without noise.

    Settings that come to the same run without noise are one arm.

    Raises:
        ConfigError: An axis names no knob or repeats a value, two arms are the same, or none is without noise.
    """
    _check_axes(recipe)
    base = settings_of(recipe)
    found: dict[str, tuple[Setting, RunConfig]] = {}
    for setting in _settings(recipe):
        config = run_config(with_overrides(base, setting))
        key = content_hash(config.model_dump(mode="json"))
        if key in found and not config.noise.is_off:
            raise ConfigError(f"arms must differ from each other, got {dict(found[key][0])} and {dict(setting)}.")
        found.setdefault(key, (setting, config))
    _refuse_idle_knobs(recipe, [config for _, config in found.values()])
    quiet = {_without_noise(config): setting for setting, config in found.values() if config.noise.is_off}
    if not quiet:
        raise ConfigError(
            "a study needs an arm without noise (alpha or nsr 0), the baseline; got 0 of "
            f"{len(found)} arms: {[dict(setting) for setting, _ in found.values()]}. Add 0 to the noise's values."
        )
    first = next(iter(quiet.values()))
    names = {key: BASELINE if setting is first else setting_name(setting) for key, setting in quiet.items()}
    return tuple(
        Arm(
            name=BASELINE if setting is first else setting_name(setting),
            setting=setting,
            is_baseline=setting is first,
            is_noisy=not config.noise.is_off,
            against=names.get(_without_noise(config), BASELINE) if not config.noise.is_off else BASELINE,
        )
        for setting, config in found.values()
    )


def search_arm(knob: str, value: float) -> Arm:
    """The arm of one value of a search."""
    setting: Setting = {knob: value}
    return Arm(setting_name(setting), setting, is_baseline=False, is_noisy=True)


def search_values(recipe: Recipe) -> list[float]:
    """The values of the recipe's search in rising order, three significant digits each, the baseline's 0 left out.

    Raises:
        ConfigError: The points lie so close that some are the same.
    """
    search = recipe.study.search
    ratio = search.high / search.low
    values = [rounded(search.low * ratio ** (i / (search.points - 1))) for i in range(search.points)]
    if len(set(values)) != len(values):
        raise ConfigError(
            f"study.search takes values that differ in three significant digits, got {search.points} points from "
            f"{search.low:g} to {search.high:g}, of which {len(set(values))} do. Ask for fewer, or a wider range."
        )
    return values


def rounded(value: float) -> float:
    """Three significant digits, so that names are readable."""
    return float(f"{value:.3g}")


def blocks_of(recipe: Recipe) -> tuple[Setting, ...]:
    """Every combination of the block axes; one empty setting where there is none."""
    axes = {knob: values for knob, values in recipe.study.scientific.items() if knob in BLOCK_KNOBS}
    return tuple(product({**recipe.study.blocks, **axes}))


def product(axes: Mapping[str, list[KnobValue]]) -> list[Setting]:
    """Every combination of the axes' values; one empty setting where there is no axis."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def setting_name(setting: Setting) -> str:
    """An arm's or a block's name: {"noise.nsr": 0.3} -> "nsr=0.3"."""
    return ", ".join(f"{_label(knob)}={_value(value)}" for knob, value in setting.items())


def _label(knob: str) -> str:
    """What a knob is called in a name; of a regulariser's settings, the regulariser too."""
    if knob.startswith(_REGULARIZERS):
        return knob.removeprefix(_REGULARIZERS).removesuffix(".strength").replace(".", " ")
    return _LABELS.get(knob, knob.rsplit(".", 1)[-1])


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe's fixed settings: all of it but the study."""
    return recipe.model_dump(mode="json", exclude={"name", "question", "study"})


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """A validated run; every way to say "no noise" is the same run, so that baselines are shared."""
    config = validate(RunConfig, values, source="the study's axes")
    if config.noise.is_off:
        return config.model_copy(update={"noise": NoiseConfig(alpha=0.0, nsr=None)})
    return config


def _settings(recipe: Recipe) -> list[Setting]:
    """Settings of the arms: the product of the axes, the arms given one by one, or the values of the search."""
    study = recipe.study
    if study.search.knob:
        knob = study.search.knob
        return [{knob: 0.0}, *({knob: value} for value in search_values(recipe))]
    axes = {knob: values for knob, values in study.scientific.items() if knob not in BLOCK_KNOBS}
    return [*(product(axes) if axes or not study.arms else []), *study.arms]


def _refuse_idle_knobs(recipe: Recipe, configs: Sequence[RunConfig]) -> None:
    """Refuse to compare settings of adapters in a study that has none: arms would differ in name alone."""
    study = recipe.study
    knobs = {*study.scientific, *study.nuisance, *study.blocks, *(knob for arm in study.arms for knob in arm)}
    idle = sorted(knob for knob in knobs if knob.startswith("model.lora."))
    axes = {**study.nuisance, **study.blocks}
    adapters = {config.model.adapter for config in configs} | {str(one) for one in axes.get("model.adapter", ())}
    if idle and adapters == {"none"}:
        raise ConfigError(
            f"{idle[0]} is a setting of adapters, and no run of this study has one (model.adapter none), so that its "
            "values would be one run under several names. Set model.adapter to lora or dora."
        )


def _without_noise(config: RunConfig) -> str:
    return content_hash(config.model_dump(mode="json", exclude={"noise"}))


def _check_axes(recipe: Recipe) -> None:
    study = recipe.study
    known = [name for name in knob_names(RunConfig) if name not in NOT_AXES]
    open_groups = mapping_knobs(RunConfig)
    axes = {"scientific": study.scientific, "nuisance": study.nuisance, "blocks": study.blocks}
    named = [(f"study.{kind}", knob) for kind, group in axes.items() for knob in group]
    for where, knob in [*named, *(("study.arms", knob) for arm in study.arms for knob in arm)]:
        if knob not in known and not any(knob.startswith(f"{group}.") for group in open_groups):
            raise ConfigError(unknown_name(f"a knob of {where}", knob, known))
    for knob in ({knob for arm in study.arms for knob in arm} | set(study.nuisance)) & set(BLOCK_KNOBS):
        raise ConfigError(f"{knob} changes what is asked, so arms cannot be compared over it. Put it under blocks.")
    _check_values(axes)
    _check_overruled(study)


def _check_overruled(study: StudyConfig) -> None:
    """Refuse a nuisance or block knob that arms would overrule, or that would give the baseline noise."""
    owners = {"arms": {knob for arm in study.arms for knob in arm}, "search": {study.search.knob}}
    for kind, knobs in (("nuisance", study.nuisance), ("blocks", study.blocks)):
        for knob in knobs:
            if owner := next((name for name, owned in owners.items() if knob in owned), None):
                raise ConfigError(
                    f"a knob belongs to one kind of axis, got {knob} in study.{owner} and study.{kind}, which would be "
                    f"ignored. Remove it from one of them."
                )
            if knob in ("noise.alpha", "noise.nsr"):
                raise ConfigError(
                    f"how much noise an arm has tells it from the baseline, got {knob} in study.{kind}. Put it under "
                    "study.scientific, arms or search."
                )


def _check_values(axes: Mapping[str, Mapping[str, Sequence[KnobValue]]]) -> None:
    seen: dict[str, str] = {}
    for kind, group in axes.items():
        for knob, values in group.items():
            if len({str(value) for value in values}) != len(values) or not values:
                raise ConfigError(f"an axis needs one or more different values, got study.{kind}.{knob}: {values}.")
            if knob in seen:
                raise ConfigError(f"a knob belongs to one kind of axis, got {knob} in {seen[knob]} and {kind}.")
            seen[knob] = kind


def _value(value: KnobValue) -> str:
    if isinstance(value, list):
        return "+".join(value) or "none"
    if value is None:
        return "none"
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def require_known_arms(names: Sequence[Setting], arms: Sequence[Arm]) -> None:
    """Refuse a control whose twin is not an arm, or is one without noise.

    Raises:
        ConfigError: With the arms there are.
    """
    for match in names:
        twin = next((arm for arm in arms if dict(arm.setting) == dict(match)), None)
        if twin is None:
            raise ConfigError(
                f"a control's match must be one of the arms {[dict(arm.setting) for arm in arms]}, got {dict(match)}."
            )
        if not twin.is_noisy:
            raise ConfigError(f"a control must match a noisy arm, got {twin.name} {dict(match)}.")
