"""What the arms of a study vary: factors, their levels, and the contrasts that the arms present allow."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from neftune.config import KnobValue
from neftune.records import PlannedRun, StudyResult

_NOISE = ("noise.alpha", "noise.nsr")
_HIGHEST_ORDER = 3

Key = tuple[str, ...]
"""One level of every factor, each as JSON."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A knob that the arms differ in.

    Attributes:
        knob: Its dotted name.
        levels: Its values, the baseline's first: every other one is compared with it.
    """

    knob: str
    levels: tuple[KnobValue, ...]


@dataclass(frozen=True, slots=True)
class Design:
    """Which arm is which combination.

    Attributes:
        factors: At least two.
        arms: The arm of every combination that was planned.
    """

    factors: tuple[Factor, ...]
    arms: Mapping[Key, str]

    def keys(self, factor: int) -> tuple[str, ...]:
        """The levels of a factor as they stand in `Key`, the reference first."""
        return tuple(map(level_key, self.factors[factor].levels))


@dataclass(frozen=True, slots=True)
class Contrast:
    """A main effect or an interaction as a weighted sum of arms.

    Attributes:
        factors: Places of its factors in the design.
        levels: What each is set to; the reference is its first level.
        weights: By arm; they sum to 0.
        num_settings: Settings of the other factors that it is the mean over.
        left_out: The other settings, for which an arm is missing.
    """

    factors: tuple[int, ...]
    levels: Key
    weights: Mapping[str, float]
    num_settings: int
    left_out: tuple[str, ...]


def find_design(result: StudyResult) -> Design | None:
    """The factorial that the arms form; None where no contrast says more than an arm beside the baseline does.

    A knob that an arm does not name has the value of its run's settings; an alpha or nsr that is not set is 0.
    """
    arms: dict[str, PlannedRun] = {}
    for run in result.planned:
        if not run.is_control:
            arms.setdefault(run.arm, run)
    knobs = list(dict.fromkeys(knob for run in arms.values() for knob in run.setting))
    baseline = next((run for run in arms.values() if run.is_baseline), None)
    if baseline is None:
        return None
    ordered = sorted(arms.values(), key=lambda run: not run.is_baseline)
    factors: list[Factor] = []
    for knob in knobs:
        levels = {level_key(value): value for run in ordered for value in [_level(run, knob)]}
        if len(levels) > 1:
            factors.append(Factor(knob, tuple(levels.values())))
    cells = {tuple(level_key(_level(run, f.knob)) for f in factors): run.arm for run in arms.values()}
    design = Design(tuple(factors), cells)
    crossed = (one.num_settings > 1 or baseline.arm not in one.weights for one in contrasts(design, cells))
    return design if len(factors) > 1 and any(crossed) else None


def contrasts(design: Design, cells: Mapping[Key, str]) -> Iterator[Contrast]:
    """Every main effect and interaction that the given cells allow, in the order of the factors and their levels.

    Three-way interactions are of factors with two levels each.
    """
    for order in range(1, min(len(design.factors), _HIGHEST_ORDER) + 1):
        for chosen in itertools.combinations(range(len(design.factors)), order):
            keys = [design.keys(index) for index in chosen]
            if order < _HIGHEST_ORDER or all(len(levels) == 2 for levels in keys):
                yield from _of_factors(design, cells, chosen)


def _of_factors(design: Design, cells: Mapping[Key, str], chosen: tuple[int, ...]) -> Iterator[Contrast]:
    """The contrasts of some factors: one for every combination of their levels beyond the reference."""
    others = [index for index in range(len(design.factors)) if index not in chosen]
    rank = [{key: place for place, key in enumerate(design.keys(index))} for index in chosen]
    references = {index: design.keys(index)[0] for index in chosen}
    settings = list(dict.fromkeys(tuple(key[index] for index in others) for key in design.arms))
    found: dict[Key, dict[Key, dict[str, int]]] = {}
    for key in cells:
        levels = tuple(key[index] for index in chosen)
        if any(level == reference for level, reference in zip(levels, references.values(), strict=True)):
            continue
        if signs := _corners(cells, references, key):
            found.setdefault(levels, {})[tuple(key[index] for index in others)] = signs
    for levels in sorted(found, key=lambda one: [own[level] for own, level in zip(rank, one, strict=True)]):
        present = found[levels]
        weights: dict[str, float] = {}
        for signs in present.values():
            for arm, sign in signs.items():
                weights[arm] = sign / len(present)
        left_out = tuple(_named(design, others, setting) for setting in settings if setting not in present)
        yield Contrast(chosen, levels, weights, len(present), left_out)


def _corners(cells: Mapping[Key, str], references: Mapping[int, str], key: Key) -> dict[str, int]:
    """Sign of every arm in a cell's difference (of differences) from the references; empty where an arm is missing."""
    signs: dict[str, int] = {}
    for changed in itertools.product((False, True), repeat=len(references)):
        corner = list(key)
        for (index, reference), change in zip(references.items(), changed, strict=True):
            corner[index] = reference if change else key[index]
        arm = cells.get(tuple(corner))
        if arm is None:
            return {}
        signs[arm] = (-1) ** sum(changed)
    return signs


def level_key(value: KnobValue) -> str:
    """A level as text that is the same for equal levels: 0 and 0.0 are one, True and 1 are two."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(float(value))
    return json.dumps(value)


def _level(run: PlannedRun, knob: str) -> KnobValue:
    if knob in run.setting:
        return run.setting[knob]
    value: object = run.config
    for name in knob.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return 0.0 if value is None and knob in _NOISE else value  # pyright: ignore[reportReturnType, reportUnknownVariableType]


def _named(design: Design, factors: Sequence[int], setting: Key) -> str:
    """A setting of the other factors in words."""
    said = [
        f"{design.factors[index].knob.rsplit('.', 1)[-1]}={level_name(json.loads(key))}"
        for index, key in zip(factors, setting, strict=True)
    ]
    return ", ".join(said)


def level_name(value: KnobValue) -> str:
    """A level as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
