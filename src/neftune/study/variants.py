"""Control variants as arms of their own: what one trained model says when it is asked otherwise, or is cut short.

A run's record holds such answers under "part@variant". Here each becomes a control arm beside the arm of its model,
so that everything that compares arms compares variants too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from neftune.config import RunConfig
from neftune.evaluation.judges import judges
from neftune.evaluation.scores import score_answers
from neftune.evaluation.variants import Variant, make_variant
from neftune.records import (
    CONTROLLED_PART,
    VARIANT_MARK,
    Answer,
    Example,
    PlannedRun,
    RunRecord,
    Scores,
    StudyResult,
    Turn,
    baseline_runs,
    variant_part,
)


def with_variants(result: StudyResult) -> StudyResult:
    """A study whose control variants are control arms with runs of their own, "baseline, long".

    Answers are cut here, and judged again, because the baseline's answers are known only now; a run whose baseline is
    missing has no cut twin.
    """
    planned: list[PlannedRun] = []
    records: dict[str, RunRecord] = {}
    twins = baseline_runs(result)
    for run in result.planned:
        planned.append(run)
        record = result.records.get(run.run_id)
        if record is None:
            continue
        records[run.run_id] = _plain(record)
        baseline = None if run.is_control else twins.get(run.run_id)
        twin = result.records.get(baseline.run_id) if baseline else None
        for name, made in (*_asked(record), *_cut(record, twin)):
            one = replace(
                run,
                run_id=variant_part(run.run_id, name),
                arm=f"{run.arm}, {name}",
                is_baseline=False,
                is_control=True,
                after=run.run_id,
                is_noisy=False,
            )
            planned.append(one)
            records[one.run_id] = replace(made, run_id=one.run_id)
    return replace(result, planned=tuple(planned), records=records)


def _plain(record: RunRecord) -> RunRecord:
    """The record without its variants."""
    return replace(
        record,
        answers={part: answers for part, answers in record.answers.items() if VARIANT_MARK not in part},
        scores={part: scores for part, scores in record.scores.items() if VARIANT_MARK not in part},
    )


def _asked(record: RunRecord) -> Iterator[tuple[str, RunRecord]]:
    """The variants that the run's model was asked under."""
    for key, scores in record.scores.items():
        part, mark, name = key.partition(VARIANT_MARK)
        if mark:
            yield name, _only(record, part, record.answers.get(key, ()), scores)


def _cut(record: RunRecord, baseline: RunRecord | None) -> Iterator[tuple[str, RunRecord]]:
    """The run's own answers, cut as the variants say by the baseline's."""
    config = RunConfig.model_validate(record.config)
    cutting = [one for one in map(make_variant, config.evaluate.variants) if not one.needs_generation]
    if baseline is None or CONTROLLED_PART not in record.answers or CONTROLLED_PART not in baseline.answers:
        return
    theirs = {one.example_id: one.text for one in baseline.answers[CONTROLLED_PART]}
    ours = [one for one in record.answers[CONTROLLED_PART] if one.example_id in theirs]
    for variant in cutting:
        answers = _cut_answers(variant, ours, theirs)
        yield variant.name, _only(record, CONTROLLED_PART, answers, _rescored(record, config, answers))


def _cut_answers(variant: Variant, ours: list[Answer], theirs: Mapping[str, str]) -> tuple[Answer, ...]:
    texts = variant.answers([one.text for one in ours], [theirs[one.example_id] for one in ours])
    return tuple(
        answer if text == answer.text else replace(answer, text=text, ended=False)
        for answer, text in zip(ours, texts, strict=True)
    )


def _rescored(record: RunRecord, config: RunConfig, answers: tuple[Answer, ...]) -> Scores:
    """Scores of cut answers; their tokens are not counted again."""
    judge = judges[config.evaluate.rule_judge](config.data) if config.evaluate.rule_judge else None
    examples = [
        Example(
            one.example_id,
            (Turn("user", one.prompt), Turn("assistant", one.reference)),
            tags=record.tags.get(one.example_id, {}),
        )
        for one in answers
    ]
    scores = score_answers(examples, {one.example_id: one for one in answers}, judge=judge)
    return replace(scores, values={name: values for name, values in scores.values.items() if name != "tokens"})


def _only(record: RunRecord, part: str, answers: tuple[Answer, ...], scores: Scores) -> RunRecord:
    """The record of a variant: one part, and nothing of the training, which is its model's."""
    return replace(record, history=(), noise=None, seconds={}, answers={part: answers}, scores={part: scores})
