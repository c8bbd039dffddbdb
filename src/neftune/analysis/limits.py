"""What limits a verdict, in words: what the sample could have seen, more seeds, other blocks, several arms."""

import math
from collections.abc import Sequence
from dataclasses import replace

from neftune.analysis.blocks import MIN_BLOCKS, pooled_effects
from neftune.analysis.effects import Effect
from neftune.analysis.judging import JUDGED_ON, Candidate, better_side, detectable
from neftune.analysis.multiplicity import arm_claims
from neftune.analysis.power import seeds_needed, with_size
from neftune.analysis.wording import number, place, unsigned
from neftune.config import Decision


def could_have_seen(judged: Sequence[Effect], rule: Decision, *, num_arms: int) -> str:
    """The smallest effect that the rule would find four times in five, in the block where that is hardest."""
    sizes = [(detectable(effect, rule, num_arms=num_arms), effect) for effect in judged]
    if any(math.isnan(size) for size, _ in sizes):
        return "Every difference was the same, so the sample does not tell what it could have seen."
    size, effect = max(sizes, key=lambda item: item[0])
    if effect.metric in ("win_rate", "lc_win_rate") and size >= 50:
        return "No win rate, however high, would be found reliably with this sample."
    return f"This sample could have seen an effect of about {unsigned(size)} or more (four times in five)."


def seeds_reasons(judged: Sequence[Effect], rule: Decision, *, num_arms: int) -> list[str]:
    """What more seeds would change, per block."""
    said: list[str] = []
    for effect in judged:
        if effect.num_seeds < 2 or len(effect.components) != 2 or not effect.standard_error > 0:
            continue
        twice = replace(effect, components=with_size(effect.components, seeds=2 * effect.num_seeds))
        size = unsigned(detectable(twice, rule, num_arms=num_arms))
        more = f"With {2 * effect.num_seeds} seeds an effect of about {size} could be seen{place(effect)}"
        gain = sum(better_side(effect)) / 2
        if gain <= rule.min_effect:
            said.append(f"{more}.")
            continue
        seeds = seeds_needed(
            gain, effect.components, confidence=rule.confidence, min_effect=rule.min_effect, num_arms=num_arms
        )
        enough = (
            f"about {seeds} seeds would settle it"
            if seeds
            else f"200 seeds on {effect.num_examples} examples would not settle it"
        )
        said.append(f"{more}; if the effect seen, {number(effect.estimate)}, is the true one, {enough}.")
    return said


def block_reasons(judged: Sequence[Effect], rule: Decision) -> list[str]:
    """What the verdict says about other blocks."""
    if 1 < len(judged) < MIN_BLOCKS:
        return [f"{len(judged)} blocks say next to nothing about another one: the verdict is about these."]
    return [
        f"Over {len(pooled.blocks)} blocks as a sample of such blocks: {number(pooled.estimate)}, "
        f"{100 * rule.confidence:g}% interval [{number(pooled.low)}, {number(pooled.high)}] for another one's mean "
        f"(Student's t with {len(pooled.blocks) - 1} degrees of freedom)."
        for pooled in pooled_effects(judged, confidence=rule.confidence)
    ]


def several_arms_reasons(effects: Sequence[Effect], candidates: Sequence[Candidate], rule: Decision) -> list[str]:
    """How the number of arms enters, and what judging all of them would have said."""
    if len(candidates) == 1:
        return ["One noisy arm was there to choose, so no correction for several arms is due."]
    arms = [candidate.arm for candidate in candidates]
    claims = arm_claims(effects, arms, blocks=list(candidates[0].by_block), part=JUDGED_ON, metric=rule.judge_by)
    held = [f"{claim.arm} (p = {claim.adjusted:.2g})" for claim in claims if claim.adjusted < 1 - rule.confidence]
    return [
        f"One of {len(arms)} arms was judged, chosen on other examples with the same seeds: the judgement allows for "
        "the luck of seeds that the choice may have favoured.",
        f"Had all {len(arms)} arms been judged at once, with Holm's correction, {', '.join(held) or 'none'} would be "
        "clearly better in every block.",
    ]
