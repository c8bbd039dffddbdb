"""The verdict: one rule, stated in the recipe before the runs, applied to the intervals.

    choose one noisy arm on held-out data -> judge it on test data, in every block -> use | no evidence | harmful

With confirmation seeds the choice was made on other runs, and the interval stands as it is. Without, the arm is chosen
on other examples but with the same runs, so luck of the seeds is shared by choice and judgement: the
interval that must clear zero is widened for it (`judging.chosen_end`). "Use" needs every block and every harm metric to
agree, which makes it rarer, never more frequent, than one interval's error rate. "Harmful" needs one of them only and
errs on the side of caution.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neftune.analysis.confirmation import confirmation_reasons, to_come_reason
from neftune.analysis.effects import Effect, decision_of, find_effects, require_effect
from neftune.analysis.judging import (
    CHOSEN_ON,
    JUDGED_ON,
    Candidate,
    better_side,
    chosen_end,
    harm_state,
    is_harm,
    rank_arms,
)
from neftune.analysis.metrics import FROM_PREFERENCES, NEEDS_JUDGE, meaning_of
from neftune.analysis.pairing import Missing, missing_runs
from neftune.analysis.reasons import named_arm, reasons_for, rule_in_words, verdict_sentence
from neftune.config import LATER, Decision
from neftune.errors import ConfigError
from neftune.records import StudyResult

Kind = Literal["use", "no evidence", "harmful", "incomplete"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the study says, and why.

    Attributes:
        kind: "use", "no evidence", "harmful", or "incomplete" while runs are missing.
        arm: The chosen arm; None where none could be chosen.
        alpha: Mean alpha of the chosen arm by block.
        nsr: Its noise-to-signal ratio as asked, or else as realised; None where neither is known.
        sentence: The verdict for people, with numbers, sample sizes and intervals.
        reasons: What it rests on and what limits it, a sentence each.
        chosen_on, judged_on: Part and metric, as ("heldout", "loss").
        rule: The rule in words.
        candidates: The arms it chose from, best first.
        judged: The chosen arm's effects on the judged metric, one a block.
        harms: The chosen arm's effects on the harm metrics.
        confidence: Of every interval.
    """

    kind: Kind
    arm: str | None
    alpha: Mapping[str, float]
    nsr: float | None
    sentence: str
    reasons: tuple[str, ...]
    chosen_on: tuple[str, str]
    judged_on: tuple[str, str]
    rule: str
    candidates: tuple[Candidate, ...] = ()
    judged: tuple[Effect, ...] = ()
    harms: tuple[Effect, ...] = ()
    confidence: float = 0.95


def decide(result: StudyResult, effects: Sequence[Effect]) -> Verdict:
    """The verdict of a study by the rule of its recipe.

    An arm with a failed run is no candidate, and the reasons name it; a run that is still to come, or a failed
    baseline, makes the verdict "incomplete". Control arms never win.

    Args:
        result: The study.
        effects: `study_effects(result)`.

    Raises:
        ConfigError: The rule names a metric without a better direction.
        DataError: The rule names a metric that the study did not measure.
    """
    rule = decision_of(result)
    check_rule(rule)
    study, result = result, result.at(result.judged_stage)
    if waits := to_come_reason(study):
        return _incomplete(study, [waits])
    missing = missing_runs(result)
    needed = _needed(result)
    unfinished = [_described(run) for run in missing if run.run_id in needed]
    if unfinished:
        return _incomplete(study, unfinished)
    failed = {run.arm: run for run in missing}
    arms = dict.fromkeys(run.arm for run in result.planned if run.is_noisy and not (run.is_baseline or run.is_control))
    excluded = [f"No candidate: {_described(run)}" for run in failed.values() if run.arm in arms]
    entrants = [arm for arm in arms if arm not in failed]
    if not entrants:
        return _incomplete(study, excluded or [*study.notes, "the study has no noisy arm."])
    unjudged = _unjudged_parts(result, effects, rule)
    if unjudged:
        command = f"neftune judge --study {result.recipe.get('name')} --model MODEL --part"
        commands = [f"`{command} {part}`" for part in unjudged]
        return _incomplete(study, [f"not all runs are judged yet. Run {' and '.join(commands)}."])
    require_effect(effects, part=CHOSEN_ON, metric=rule.choose_by)
    for metric in (rule.judge_by, *rule.harm_by):
        require_effect(effects, part=JUDGED_ON, metric=metric)
    blocks = list(dict.fromkeys(run.block for run in result.planned))
    candidates = rank_arms(effects, entrants, blocks=blocks, metric=rule.choose_by)
    if not candidates:
        return _incomplete(study, [f"no arm has {rule.choose_by} in every block on the {CHOSEN_ON} part.", *excluded])
    return _judge(study, effects, rule, candidates, [*excluded, *study.notes])


def _unjudged_parts(result: StudyResult, effects: Sequence[Effect], rule: Decision) -> list[str]:
    """Parts on which the rule waits for a model that judges after the runs."""
    if result.recipe.get("evaluate", {}).get("judge") != LATER:
        return []
    wanted = [(CHOSEN_ON, rule.choose_by), *((JUDGED_ON, metric) for metric in (rule.judge_by, *rule.harm_by))]
    return list(
        dict.fromkeys(
            part
            for part, metric in wanted
            if metric in FROM_PREFERENCES and not find_effects(effects, part=part, metric=metric)
        )
    )


def check_rule(rule: Decision, *, has_judge: bool = True, judges_later: bool = False) -> None:
    """Refuse a rule that no result could satisfy; the command line asks before the first run.

    Args:
        rule: The rule.
        has_judge: Whether the study has a judge, without which there are no preferences and no facts.
        judges_later: Whether a model judges after the runs: it compares arms, and counts no facts.

    Raises:
        ConfigError: A metric has no better direction, or needs a judge and there is none.
    """
    for part, metric in [(CHOSEN_ON, rule.choose_by), *((JUDGED_ON, m) for m in (rule.judge_by, *rule.harm_by))]:
        if meaning_of(metric, part).direction == "neither":
            raise ConfigError(
                f"a metric that decides must have a better direction, got {metric!r}, which has none. "
                "Take one such as loss, quality or lc_win_rate in study.decision."
            )
        if metric in NEEDS_JUDGE and not has_judge:
            raise ConfigError(
                f"deciding by {metric!r} needs a judge, got evaluate.judge null. "
                "Name one (`neftune list judges`), or decide by loss."
            )
        if metric in NEEDS_JUDGE - FROM_PREFERENCES and judges_later:
            raise ConfigError(
                f"a model that judges after the runs gives {' and '.join(sorted(FROM_PREFERENCES))}, got a decision by "
                f"{metric!r}. Decide by one of those, or by a score such as loss."
            )


def _needed(result: StudyResult) -> set[str]:
    """Ids of runs without which there is no verdict: what others are compared with, and arms that have not failed."""
    references = {run.against for run in result.planned}
    return {
        run.run_id
        for run in result.planned
        if not run.is_control and (run.is_baseline or run.arm in references or run.run_id not in result.failures)
    }


def _described(run: Missing) -> str:
    return f"{run.arm}{f' in {run.block}' if run.block else ''}, seed {run.seed}: {run.reason.rstrip('.')}."


def _incomplete(study: StudyResult, reasons: Sequence[str]) -> Verdict:
    rule = decision_of(study)
    first = reasons[0].rstrip(".")
    return Verdict(
        kind="incomplete",
        arm=None,
        alpha={},
        nsr=None,
        sentence=f"No verdict yet: {first}{f', and {len(reasons) - 1} more' if len(reasons) > 1 else ''}.",
        reasons=tuple(reasons),
        chosen_on=(CHOSEN_ON, rule.choose_by),
        judged_on=(JUDGED_ON, rule.judge_by),
        rule=rule_in_words(rule, confirmed=study.judged_stage == "confirm"),
        confidence=rule.confidence,
    )


def _judge(
    study: StudyResult,
    effects: Sequence[Effect],
    rule: Decision,
    candidates: tuple[Candidate, ...],
    further: Sequence[str],
) -> Verdict:
    arm = candidates[0].arm
    judged = find_effects(effects, part=JUDGED_ON, arm=arm, metric=rule.judge_by)
    harms = tuple(e for metric in rule.harm_by for e in find_effects(effects, part=JUDGED_ON, arm=arm, metric=metric))
    kind = kind_of(judged, harms, rule, candidates)
    alpha, nsr = _strength(study.at(study.judged_stage), arm)
    confirmed = confirmation_reasons(study, rule)
    return Verdict(
        kind=kind,
        arm=arm,
        alpha=alpha,
        nsr=nsr,
        sentence=verdict_sentence(kind, judged, harms, rule, arm=named_arm(arm, alpha), num_arms=len(candidates)),
        reasons=(
            *reasons_for(effects, judged, harms, rule=rule, candidates=candidates, kind=kind, confirmed=confirmed),
            *further,
        ),
        chosen_on=(CHOSEN_ON, rule.choose_by),
        judged_on=(JUDGED_ON, rule.judge_by),
        rule=rule_in_words(rule, confirmed=study.judged_stage == "confirm"),
        candidates=candidates,
        judged=judged,
        harms=harms,
        confidence=rule.confidence,
    )


def kind_of(judged: Sequence[Effect], harms: Sequence[Effect], rule: Decision, candidates: Sequence[Candidate]) -> Kind:
    """What the rule says of the chosen arm, the first of the candidates.

    Args:
        judged: Its effects on the judged metric on the test part, one a block.
        harms: Its effects on the harm metrics there.
        rule: The rule.
        candidates: `rank_arms` of all arms it was chosen from.
    """
    if any(effect.num_seeds < 2 for effect in judged):
        return "no evidence"
    if any(better_side(effect)[1] < 0 for effect in judged) or any(is_harm(effect, rule) for effect in harms):
        return "harmful"
    # An interval without width says that every difference was the same, not that the next one will be.
    ends = [chosen_end(e, rule, num_arms=len(candidates)) for e in judged if e.high > e.low]
    helps = len(ends) == len(candidates[0].by_block) and min(ends) > rule.min_effect
    safe = not rule.harm_ruled_out or all(harm_state(effect, rule) == "ruled out" for effect in harms)
    return "use" if helps and safe else "no evidence"


def _strength(result: StudyResult, arm: str) -> tuple[dict[str, float], float | None]:
    """Mean alpha by block, and the noise-to-signal ratio."""
    runs = [(run.block, result.records[run.run_id]) for run in result.planned if run.arm == arm]
    alphas: dict[str, list[float]] = {}
    for block, record in runs:
        alphas.setdefault(block, []).append(record.alpha)
    asked = [record.config.get("noise", {}).get("nsr") for _, record in runs]
    realised = [record.noise.noise_to_embedding for _, record in runs if record.noise]
    known = [ratio for ratio in asked if ratio is not None] or realised
    return {block: _mean(values) for block, values in alphas.items()}, _mean(known) if known else None


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(set(values)) == 1 else math.fsum(values) / len(values)
