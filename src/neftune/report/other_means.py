"""The judged effects by other means: all arms at once, sign flips, the mixed-effects model, more seeds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from neftune.analysis.differences import pair_differences
from neftune.analysis.effects import Effect, find_effects
from neftune.analysis.mixed import MixedEffects, mixed_effects
from neftune.analysis.multiplicity import holm, simultaneous_interval
from neftune.analysis.pairing import Pairing, pairings
from neftune.analysis.permutation import PairedPermutation, paired_permutation
from neftune.analysis.power import detectable_effect, seeds_needed
from neftune.analysis.preferences import JACKKNIFED
from neftune.analysis.statistics import FloatArray
from neftune.errors import DataError
from neftune.report import numbers
from neftune.report.evidence import Evidence
from neftune.report.factorial import p_text
from neftune.report.metrics import metric_of
from neftune.report.overview import Arm
from neftune.report.runs import block_title
from neftune.report.tables import Cell, Column, Group, Table, arm_cell, cells

MOST_EFFECTS = 60
"""Effects that are looked at again; sign flips of thousands would take minutes."""
_MOST_SEEDS = 200


@dataclass(frozen=True, slots=True)
class SecondLook:
    """One judged effect by other means.

    Attributes:
        effect: The effect with the interval that decides.
        num_arms: Arms of its block that are looked at together.
        adjusted: Its p-value after Holm's correction for them.
        together: Ends of its interval that holds together with theirs; NaN where there is no interval.
        flips: Sign flips over seeds and over examples.
        mixed: The mixed-effects model; None below two seeds or two examples.
        detectable: The smallest true effect found four times in five; NaN where nothing varied.
        seeds_to_settle: Seeds with which the effect seen would be found four times in five; None where 200 would not.
    """

    effect: Effect
    num_arms: int
    adjusted: float
    together: tuple[float, float]
    flips: PairedPermutation
    mixed: MixedEffects | None
    detectable: float
    seeds_to_settle: int | None


def second_looks(evidence: Evidence) -> tuple[SecondLook, ...]:
    """Every arm's effect on the judged metric, block by block; the chosen arm first where they are too many."""
    wanted = find_effects(evidence.effects, part="test", metric=evidence.decision.judge_by)
    chosen = evidence.verdict.arm
    by_key = {(one.block, one.arm): one for one in pairings(evidence.overview.result)}
    made: list[SecondLook] = []
    adjusted, num_arms = _adjusted(wanted)
    for effect in sorted(wanted, key=lambda one: one.arm != chosen)[:MOST_EFFECTS]:
        table = _table(by_key.get((effect.block, effect.arm)), effect)
        if table is not None:
            key = effect.block, effect.arm
            made.append(_look(evidence, effect, table, adjusted[key], num_arms[effect.block]))
    places = {arm.name: arm.index for arm in evidence.overview.arms}
    blocks = {block: place for place, block in enumerate(evidence.overview.blocks)}
    return tuple(sorted(made, key=lambda one: (blocks[one.effect.block], places[one.effect.arm])))


def _adjusted(effects: tuple[Effect, ...]) -> tuple[dict[tuple[str, str], float], dict[str, int]]:
    """Holm's p-values over the arms of each block, controls apart, and the number of those arms."""
    by_block: dict[str, dict[str, float]] = {}
    for effect in effects:
        if not effect.is_control:
            by_block.setdefault(effect.block, {})[effect.arm] = effect.p_value
    found = {(block, arm): p for block, values in by_block.items() for arm, p in holm(values).items()}
    for effect in effects:
        found.setdefault((effect.block, effect.arm), math.nan)
    return found, {effect.block: max(1, len(by_block.get(effect.block, ()))) for effect in effects}


def _table(pairing: Pairing | None, effect: Effect) -> FloatArray | None:
    found = None if pairing is None else pair_differences(pairing, effect.part, effect.metric)
    return None if found is None else found.values


def _look(evidence: Evidence, effect: Effect, table: FloatArray, adjusted: float, num_arms: int) -> SecondLook:
    rule = evidence.decision
    try:
        mixed = mixed_effects(table)
    except DataError:
        mixed = None
    varied = bool(effect.components) and effect.standard_error > 0
    asked: dict[str, Any] = {"confidence": rule.confidence, "min_effect": rule.min_effect}
    can_plan = varied and len(effect.components) == 2 and effect.num_seeds > 1 and effect.estimate != 0
    return SecondLook(
        effect=effect,
        num_arms=num_arms,
        adjusted=adjusted,
        together=(
            simultaneous_interval(effect, confidence=rule.confidence, num_arms=num_arms)
            if effect.components and not effect.is_control
            else (math.nan, math.nan)
        ),
        flips=paired_permutation(table, rng=np.random.default_rng(0)),
        mixed=mixed,
        detectable=detectable_effect(effect.components, **asked) if varied else math.nan,
        seeds_to_settle=seeds_needed(effect.estimate, effect.components, most=_MOST_SEEDS, **asked)
        if can_plan
        else None,
    )


def other_means_table(evidence: Evidence) -> Table | None:
    """The same effects by other means; None where no arm is judged yet."""
    found = second_looks(evidence)
    if not found:
        return None
    metric = metric_of(found[0].effect.metric, "test")
    arms = {arm.name: arm for arm in evidence.overview.arms}
    columns = (
        Column("arm", numeric=False),
        Column("difference", f"{evidence.confidence} interval; it decides"),
        Column("all arms at once", "Holm's p, interval"),
        Column("flips of seeds", "p (smallest possible)"),
        Column("flips of examples", "p"),
        Column("mixed model", "estimate ± standard error"),
        Column("standard deviations", "seeds; examples; rest"),
        Column("could have seen", about="The smallest true effect that this sample would find four times in five."),
        Column("seeds to settle this", about="If the effect seen is the true one: found four times in five."),
        Column("n", "seeds × examples"),
    )
    groups = tuple(
        Group(
            block_title(block),
            tuple(_row(evidence, one, arms[one.effect.arm]) for one in found if one.effect.block == block),
        )
        for block in evidence.overview.blocks
    )
    named = ", ".join(filter(None, (f"{metric.label} on the test part", metric.difference_unit)))
    caption = f"The judged differences by other means: {named}"
    return Table("other-means", caption, columns, groups, tuple(_notes(evidence, found)))


def _row(evidence: Evidence, one: SecondLook, arm: Arm) -> tuple[Cell, ...]:
    effect, metric = one.effect, metric_of(one.effect.metric, "test")
    wide = metric.interval(effect.estimate, *one.together, signed=True).partition(" ")[2]
    together = Cell("control") if effect.is_control else Cell(p_text(one.adjusted), note=wide)
    seeds, examples = one.flips.over_seeds, one.flips.over_examples
    mixed, spread = numbers.MISSING, numbers.MISSING
    if one.mixed is not None:
        mean, error = (metric.scale * value for value in (one.mixed.estimate, one.mixed.standard_error))
        decimals = numbers.decimals_for(max(abs(mean), error), most=3)
        mixed = f"{numbers.signed(mean, decimals=decimals)} ± {numbers.number(error, decimals=decimals)}"
        parts = (one.mixed.sd_seed, one.mixed.sd_example, one.mixed.sd_rest)
        spread = "; ".join(metric.show(part) for part in parts)
    return cells(
        arm_cell(arm),
        metric.interval(effect.estimate, effect.low, effect.high, signed=True),
        together,
        f"{p_text(seeds.p_value)} ({p_text(seeds.smallest)})",
        p_text(examples.p_value),
        mixed,
        spread,
        metric.show(one.detectable),
        _seeds(one),
        f"{effect.num_seeds} × {effect.num_examples:,}",
    )


def _seeds(one: SecondLook) -> str:
    effect = one.effect
    if len(effect.components) != 2 or effect.num_seeds < 2 or not effect.standard_error > 0 or effect.estimate == 0:
        return numbers.MISSING
    return f"> {_MOST_SEEDS}" if one.seeds_to_settle is None else str(one.seeds_to_settle)


def _notes(evidence: Evidence, found: tuple[SecondLook, ...]) -> Iterator[str]:
    num_arms = max(one.num_arms for one in found)
    alpha = 1 - evidence.decision.confidence
    clear = [one for one in found if one.adjusted < alpha]
    named = [f"{one.effect.arm}{f' in {block_title(one.effect.block)}' if one.effect.block else ''}" for one in clear]
    yield (
        f"All {numbers.count(num_arms, 'arm')} of a block looked at together, with Holm's correction: "
        f"{', '.join(named[:8]) or 'none'} differ{'s' if len(named) == 1 else ''} clearly."
    )
    seeds = max(one.effect.num_seeds for one in found)
    if seeds < 6:
        yield (
            f"Sign flips over {numbers.count(seeds, 'seed')} cannot give a p-value below "
            f"{p_text(min(1.0, 2.0 ** (1 - seeds)))}; six seeds are the fewest that can reject at 5% this way."
        )
    yield (
        "The mixed model takes its variances for known, so its own interval would be too narrow with few seeds; the "
        "interval on the left is the one to read. Its standard deviations say where more data would help: seeds, or "
        "examples."
    )
    yield (
        "Seeds to settle this: so many would find the effect with 80% power if the one seen were the true one and the "
        "variances were those seen. A chosen effect flatters itself; a standard deviation from three seeds is known "
        f"within a factor of about 0.5 to 6. '> {_MOST_SEEDS}': more seeds do nothing about the variance of examples."
    )
    if any(one.effect.method.startswith(JACKKNIFED) for one in found):
        yield "Of a fitted win rate, flips and model see the jackknife's pseudo-values, whose mean may differ."
    total = len(find_effects(evidence.effects, part="test", metric=evidence.decision.judge_by))
    if total > MOST_EFFECTS:
        yield f"{MOST_EFFECTS} of {total} effects are shown, the chosen arm's first."
