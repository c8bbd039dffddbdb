"""One model -> answers and scores per example of each part, noise off."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neftune.config import EvaluateConfig, RunConfig
from neftune.data.batches import tokenise
from neftune.data.prompts import render_prompt, resolve_template
from neftune.errors import DataError
from neftune.evaluation.generation import generate, prompt_room, response_ends
from neftune.evaluation.judges import Judge, judges
from neftune.evaluation.losses import example_losses
from neftune.evaluation.text_metrics import text_metrics
from neftune.records import Answer, DataSet, Document, Example, Part, Scores

_BATCHES_PER_STEP = 4
"""Batches between two calls of on_progress."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was asked of one model, and what came back.

    Attributes:
        answers: Responses by part, in the order of its examples; none for a prompt that fills the context.
        scores: Scores by part for every example: "loss" (nats per response token), "tokens" (of the answer), "ended"
            (1 where the model stopped by itself), every text metric, every score of the judge.
        counts: By part and cause: "test_prompts_too_long" (no answer), "test_without_loss" (no response token within
            data.max_length).
    """

    answers: Mapping[Part, tuple[Answer, ...]]
    scores: Mapping[Part, Scores]
    counts: Mapping[str, int]


def evaluate_model(
    model: Any,
    tokenizer: Any,
    data: DataSet,
    run: RunConfig,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Loss, answers and scores on every part that ``run.evaluate`` names.

    Of the training part the first ``num_train_prompts`` examples are asked, the same ones in every run. The model's
    mode and settings are as before afterwards.

    Args:
        model: A causal language model of transformers, with or without PEFT adapters.
        tokenizer: Its tokenizer.
        data: The run's data; a part that is evaluated must not be empty.
        run: The run's settings; `evaluate`, `data.template`, `data.max_length` and the judge's needs are read.
        on_progress: Called with (prompts answered, prompts in all).

    Raises:
        DataError: A part that is asked for is empty, or none of its prompts leaves room for an answer.
        ModelError: The model or tokenizer cannot be used.
        UnknownNameError: No judge has this name.
    """
    judge = None if run.evaluate.judge is None else judges[run.evaluate.judge](run.data)
    template = resolve_template(run.data.template, tokenizer)
    asked: dict[Part, tuple[Example, ...]] = {part: _asked(data, part, run.evaluate) for part in run.evaluate.parts}
    documents = {
        part: tokenise(examples, tokenizer, template=template, max_length=run.data.max_length).documents
        for part, examples in asked.items()
    }
    ends = response_ends(itertools.chain.from_iterable(documents.values()), tokenizer)
    total = sum(len(examples) for examples in asked.values())
    answers: dict[Part, tuple[Answer, ...]] = {}
    scores: dict[Part, Scores] = {}
    counts: dict[str, int] = {}
    done = 0
    for part, examples in asked.items():
        losses = _losses(model, documents[part], run.evaluate)
        prompts = {one.id: render_prompt(one, template=template, tokenizer=tokenizer) for one in examples}

        def advance(answered: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + answered, total)

        found = _answers(model, tokenizer, examples, prompts, settings=run.evaluate, ends=ends, advance=advance)
        done += len(examples)
        advance(len(examples))
        answers[part] = tuple(found.values())
        scores[part] = score_answers(examples, found, losses=losses, judge=judge)
        counts[f"{part}_prompts_too_long"] = len(examples) - len(found)
        counts[f"{part}_without_loss"] = len(examples) - len(losses)
    return Evaluation(answers, scores, counts)


def score_answers(
    examples: Sequence[Example],
    answers: Mapping[str, Answer],
    *,
    losses: Mapping[str, float] | None = None,
    judge: Judge | None = None,
) -> Scores:
    """Scores of given answers; NaN for an example without an answer or a loss.

    Args:
        examples: What was asked.
        answers: Answers by example id.
        losses: Losses by example id; None leaves "loss" out.
        judge: Its scores are added; None adds none.
    """
    rows = [_score_answer(one, answers[one.id], judge) if one.id in answers else {} for one in examples]
    if losses is not None:
        rows = [{"loss": losses.get(one.id, math.nan), **row} for one, row in zip(examples, rows, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    return Scores(
        example_ids=tuple(one.id for one in examples),
        values={name: tuple(row.get(name, math.nan) for row in rows) for name in names},
    )


def _asked(data: DataSet, part: Part, settings: EvaluateConfig) -> tuple[Example, ...]:
    examples = data.parts.get(part, ())
    if not examples:
        raise DataError(f"evaluate.parts names {part!r}, which has no examples. Leave it out, or give it examples.")
    return examples[: settings.num_train_prompts] if part == "train" else examples


def _losses(model: Any, documents: Sequence[Document], settings: EvaluateConfig) -> dict[str, float]:
    """Clean loss by example id; examples without a response token within the context have none."""
    losses = example_losses(model, documents, batch_size=settings.batch_size)
    return {document.example_id: loss for document, loss in zip(documents, losses, strict=True)}


def _answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    prompts: Mapping[str, str],
    *,
    settings: EvaluateConfig,
    ends: Sequence[int],
    advance: Callable[[int], None],
) -> dict[str, Answer]:
    """Answers by example id, in the order of the examples."""
    rooms = {one.id: prompt_room(model, tokenizer, prompts[one.id]) for one in examples}
    fitting = [one for one in examples if (room := rooms[one.id]) is None or room >= 1]
    if not fitting:
        raise DataError(
            f"At least one prompt must leave room for an answer in the model's context, got none of {len(examples)}. "
            "Use a shorter template or a model with a longer context."
        )
    # By length across the whole part, so that slicing for progress costs no padding.
    ordered = sorted(fitting, key=lambda one: len(prompts[one.id]))
    found: dict[str, Answer] = {}
    step = _BATCHES_PER_STEP * settings.batch_size
    for start in range(0, len(ordered), step):
        some = ordered[start : start + step]
        generated = generate(
            model,
            tokenizer,
            [prompts[one.id] for one in some],
            max_new_tokens=settings.max_new_tokens,
            repetition_penalty=settings.repetition_penalty,
            batch_size=settings.batch_size,
            end_tokens=ends,
        )
        for one, made in zip(some, generated, strict=True):
            found[one.id] = Answer(
                one.id, prompts[one.id], made.text, one.reference, num_tokens=made.num_tokens, ended=made.ended
            )
        advance(len(found))
    return {one.id: found[one.id] for one in fitting}


def _score_answer(example: Example, answer: Answer, judge: Judge | None) -> dict[str, float]:
    row = {"tokens": float(answer.num_tokens), "ended": float(answer.ended)}
    row |= {name: metric(answer.text, answer.reference) for name, metric in text_metrics.items()}
    return row | ({} if judge is None else dict(judge.scores(example, answer.text)))
