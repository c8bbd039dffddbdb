"""The verdict in words: a sentence for people, and what it rests on."""

from collections.abc import Mapping, Sequence

from neftune.analysis.effects import Effect, find_effects
from neftune.analysis.judging import Candidate, better_side, chosen_end, harm_state, is_harm
from neftune.analysis.limits import block_reasons, could_have_seen, seeds_reasons, several_arms_reasons
from neftune.analysis.wording import (
    PARTS,
    interval_phrase,
    metric_phrase,
    number,
    place,
    reference_phrase,
    sample_phrase,
    sentence_case,
    unsigned,
)
from neftune.config import Decision

_TWINS = {
    "win_rate": "lc_win_rate",
    "lc_win_rate": "win_rate",
    "win_rate_vs_reference": "lc_win_rate_vs_reference",
    "lc_win_rate_vs_reference": "win_rate_vs_reference",
}


def rule_in_words(rule: Decision, *, confirmed: bool = False) -> str:
    """The decision rule as one paragraph.

    Args:
        rule: The rule.
        confirmed: Whether the chosen arm is judged on fresh seeds.
    """
    tolerated = [
        f"{metric_phrase(metric)} (beyond {unsigned(rule.harm_tolerance.get(metric, 0.0))})" for metric in rule.harm_by
    ]
    wanted = "every harm is ruled out" if rule.harm_ruled_out else "no harm metric is clearly worse"
    harm = f" and {wanted}: {', '.join(tolerated)}" if tolerated else ""
    fresh = ", which it has not seen, with fresh seeds" if confirmed else ""
    widened = "" if confirmed else ", widened for the choice among several arms with the same seeds,"
    over = "" if confirmed else ", mean over blocks"
    return (
        f"Choose the noisy arm with the best {metric_phrase(rule.choose_by)} on the held-out part{over}; "
        f"judge it by the {metric_phrase(rule.judge_by)} on the test part{fresh}. Use it if, in every block, the "
        f"{100 * rule.confidence:g}% interval{widened} "
        f"lies beyond {unsigned(rule.min_effect)} on the better side{harm}. "
        f"Harmful if the interval lies wholly on the worse side{', or a harm is clear,' if tolerated else ''} in any "
        "block. Else no evidence."
    )


def named_arm(arm: str, alpha: Mapping[str, float]) -> str:
    """The arm's name with its alpha, where the name does not say it."""
    if "alpha=" in arm or not alpha:
        return arm
    low, high = f"{min(alpha.values()):.3g}", f"{max(alpha.values()):.3g}"
    return f"{arm} (alpha {low})" if low == high else f"{arm} (alpha {low} to {high})"


def verdict_sentence(
    kind: str, judged: Sequence[Effect], harms: Sequence[Effect], rule: Decision, *, arm: str, num_arms: int
) -> str:
    """The verdict with its numbers, sample sizes and intervals."""
    metric = metric_phrase(rule.judge_by)
    if not judged:
        return f"No evidence for {arm}: its {metric} could not be computed on the test part."
    numbers = "; ".join(f"{interval_phrase(e, rule.confidence)}{place(e)}" for e in judged)
    is_rate = rule.judge_by in ("win_rate", "lc_win_rate")
    metric = metric.replace("the baseline", reference_phrase(judged)) if is_rate else metric
    from_what = "even" if is_rate else reference_phrase(judged)
    samples = "; ".join(dict.fromkeys(sample_phrase(e) for e in judged))
    said = f"on the test part its {metric} differs from {from_what} by {numbers} ({samples})"
    if kind == "use":
        return f"Use {arm}: {said}{_no_harm(harms, rule)}."
    if kind == "harmful":
        broken = [e for e in harms if is_harm(e, rule)]
        why = "; ".join(f"{metric_phrase(e.metric)} {interval_phrase(e, rule.confidence)}{place(e)}" for e in broken)
        return f"Do not use {arm}: {said}{f'. Clearly worse than tolerated: {why}' if why else ''}."
    if any(e.num_seeds < 2 for e in judged):
        return f"No evidence for {arm} from a single seed: {said}. Train more seeds to tell the noise from luck."
    why = _shortcomings(judged, harms, rule, num_arms=num_arms)
    return f"No evidence for {arm}: {said}. {why or could_have_seen(judged, rule, num_arms=num_arms)}"


def _no_harm(harms: Sequence[Effect], rule: Decision) -> str:
    if not harms:
        return ""
    ruled_out = sum(harm_state(effect, rule) == "ruled out" for effect in harms)
    checks = f"{ruled_out} of {len(harms)} checks" if len(harms) > 1 else f"{ruled_out} of 1 check"
    return f", and no harm metric is clearly worse (ruled out beyond its tolerance in {checks})"


def _shortcomings(judged: Sequence[Effect], harms: Sequence[Effect], rule: Decision, *, num_arms: int) -> str:
    """Why an interval that lies on the better side is no evidence yet; "" where one does not lie there."""
    if any(better_side(effect)[0] <= rule.min_effect or not effect.high > effect.low for effect in judged):
        return ""
    if any(chosen_end(effect, rule, num_arms=num_arms) <= rule.min_effect for effect in judged):
        return f"That is no more than the luckiest of {num_arms} arms may reach with these seeds. Train more seeds."
    unknown = [metric_phrase(e.metric) + place(e) for e in harms if harm_state(e, rule) != "ruled out"]
    return f"Harm beyond the tolerance is not ruled out: {', '.join(unknown)}." if unknown else ""


def reasons_for(
    effects: Sequence[Effect],
    judged: Sequence[Effect],
    harms: Sequence[Effect],
    *,
    rule: Decision,
    candidates: Sequence[Candidate],
    kind: str,
    confirmed: Sequence[str] = (),
) -> tuple[str, ...]:
    """What the verdict rests on and what limits it, a sentence each.

    Args:
        effects: All effects of the runs that judge.
        judged: Those of the chosen arm on the judged metric.
        harms: Those on the harm metrics.
        rule: The rule.
        candidates: The arms that could be chosen, best first.
        kind: The verdict.
        confirmed: How the arm was chosen, where other runs have chosen it.
    """
    return (
        *(confirmed or [_choice_reason(candidates, rule)]),
        *_judged_reasons(judged, rule, num_arms=len(candidates)),
        *(seeds_reasons(judged, rule, num_arms=len(candidates)) if kind == "no evidence" else ()),
        *_length_reasons(effects, judged, rule),
        *_harm_reasons(harms, rule),
        *block_reasons(judged, rule),
        *(() if confirmed else several_arms_reasons(effects, candidates, rule)),
    )


def _choice_reason(candidates: Sequence[Candidate], rule: Decision) -> str:
    best, *others = candidates
    rest = f" (others: {', '.join(f'{c.arm} {number(c.gain)}' for c in others)})" if others else ""
    against = "better than" if best.gain > 0 else "no better than"
    return (
        f"{best.arm} was chosen by {metric_phrase(rule.choose_by)} on the held-out part, mean over blocks: "
        f"gain {number(best.gain)}, {against} the baseline{rest}."
    )


def _judged_reasons(judged: Sequence[Effect], rule: Decision, *, num_arms: int) -> list[str]:
    said = [
        f"{sentence_case(metric_phrase(e.metric))} on the {PARTS[e.part]} part{place(e)}: "
        f"{interval_phrase(e, rule.confidence)} ({sample_phrase(e)}). {could_have_seen([e], rule, num_arms=num_arms)}"
        for e in judged
    ]
    if any(e.against != "baseline" for e in judged):
        said.append(f"Compared with {reference_phrase(judged)} throughout, win rates too: what is judged is the noise.")
    if any(e.num_seeds < 2 for e in judged):
        said.append("One seed: the interval says nothing about another training run, so the noise is not judged.")
    return said


def _length_reasons(effects: Sequence[Effect], judged: Sequence[Effect], rule: Decision) -> list[str]:
    said: list[str] = []
    for effect in judged if rule.judge_by in _TWINS else ():
        same = {"block": effect.block, "part": effect.part, "arm": effect.arm}
        words = [
            f" Answers have {e.arm_mean:.3g} words instead of {e.baseline_mean:.3g}."
            for e in find_effects(effects, **same, metric="words")
        ]
        for twin in find_effects(effects, **same, metric=_TWINS[effect.metric]):
            raw, controlled = (twin, effect) if effect.metric.startswith("lc_") else (effect, twin)
            agree = "agree" if _sign(raw) == _sign(controlled) else "disagree"
            said.append(
                f"Raw and length-controlled {agree}{place(effect)}: raw {interval_phrase(raw, rule.confidence)}; "
                f"length-controlled {interval_phrase(controlled, rule.confidence)}.{''.join(words)}"
            )
    return said


def _sign(effect: Effect) -> int:
    return 1 if effect.low > 0 else -1 if effect.high < 0 else 0


def _harm_reasons(harms: Sequence[Effect], rule: Decision) -> list[str]:
    said: list[str] = []
    for effect in harms:
        tolerance = unsigned(rule.harm_tolerance.get(effect.metric, 0.0))
        worst = unsigned(max(0.0, -better_side(effect)[0]))
        name, told = (
            sentence_case(metric_phrase(effect.metric)) + place(effect),
            interval_phrase(effect, rule.confidence),
        )
        match harm_state(effect, rule):
            case "worse":
                said.append(f"{name} is worse than the tolerance of {tolerance}: {told}.")
            case "ruled out":
                said.append(f"{name}: harm beyond {tolerance} is ruled out: {told}, so at most {worst} worse.")
            case "open":
                said.append(
                    f"{name} is not clearly worse than the tolerance of {tolerance}: {told}, "
                    f"so {worst} worse is not ruled out."
                )
            case "unseen":
                rare = 100 * (1 - (1 - rule.confidence) ** (1 / effect.num_examples))
                said.append(
                    f"{name} differs by {number(effect.estimate)} without any variance ({sample_phrase(effect)}): harm "
                    f"was not seen, and is not ruled out; fewer than {rare:.2g}% of further examples would differ."
                )
    return said
