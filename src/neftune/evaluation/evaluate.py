"""One model -> answers and scores per example of each part, noise off."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neftune.config import EvaluateConfig, RunConfig
from neftune.data.batches import tokenise
from neftune.data.prompts import render_prompt, resolve_template
from neftune.errors import DataError
from neftune.evaluation.generation import Generated, GenerationSettings, generate_each, prompt_room, response_ends
from neftune.evaluation.judges import judges
from neftune.evaluation.losses import example_losses
from neftune.evaluation.scores import score_answers
from neftune.evaluation.variants import Variant, make_variant
from neftune.records import CONTROLLED_PART, Answer, DataSet, Document, Example, Scores, variant_part


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was asked of one model, and what came back.

    Attributes:
        answers: Responses by part, in the order of its examples; none for a prompt that fills the context. Those of a
            control variant stand under "part@variant".
        scores: Scores by part for every example: "loss" (nats per response token; not of a variant), "tokens" (of the
            answer), "ended" (1 where the model stopped by itself), every text metric, every score of the judge.
        counts: By part and cause: "test_prompts_too_long" (no answer), "test_without_loss" (no response token within
            data.max_length).
    """

    answers: Mapping[str, tuple[Answer, ...]]
    scores: Mapping[str, Scores]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Examples that are answered in one go.

    Attributes:
        part: The key of the answers.
        examples: As they are asked.
        references: Documents whose loss is measured; None measures none.
        variant: What is changed; None changes nothing.
    """

    part: str
    examples: tuple[Example, ...]
    references: tuple[Document, ...] | None
    variant: Variant | None = None


def evaluate_model(
    model: Any,
    tokenizer: Any,
    data: DataSet,
    run: RunConfig,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Loss, answers and scores on every part that ``run.evaluate`` names, and on its control variants.

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
        UnknownNameError: No judge or variant has this name.
    """
    judge = None if run.evaluate.rule_judge is None else judges[run.evaluate.rule_judge](run.data)
    template = resolve_template(run.data.template, tokenizer)
    plain = [_plain(data, part, tokenizer, run, template) for part in run.evaluate.parts]
    ends = response_ends(itertools.chain.from_iterable(one.references or () for one in plain), tokenizer)
    everything = [*plain, *_variants(plain, run)]
    total = sum(len(one.examples) for one in everything)
    answers: dict[str, tuple[Answer, ...]] = {}
    scores: dict[str, Scores] = {}
    counts: dict[str, int] = {}
    done = 0
    for asked in everything:

        def advance(answered: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + answered, total)

        losses = None if asked.references is None else _losses(model, asked.references, run.evaluate)
        prompts = {one.id: render_prompt(one, template=template, tokenizer=tokenizer) for one in asked.examples}
        found = _answers(model, tokenizer, asked, prompts, settings=run.evaluate, ends=ends, advance=advance)
        done += len(asked.examples)
        advance(len(asked.examples))
        answers[asked.part] = tuple(found.values())
        scores[asked.part] = score_answers(asked.examples, found, losses=losses, judge=judge)
        counts[f"{asked.part}_prompts_too_long"] = len(asked.examples) - len(found)
        if losses is not None:
            counts[f"{asked.part}_without_loss"] = len(asked.examples) - len(losses)
    return Evaluation(answers, scores, counts)


def _plain(data: DataSet, part: Any, tokenizer: Any, run: RunConfig, template: str) -> _Asked:
    examples = _examples(data, part, run.evaluate)
    answered = [one for one in examples if one.reference]
    if not answered:
        return _Asked(part, examples, None)
    documents = tokenise(answered, tokenizer, template=template, max_length=run.data.max_length).documents
    return _Asked(part, examples, documents)


def _variants(plain: Sequence[_Asked], run: RunConfig) -> Iterator[_Asked]:
    """The controlled part once more for each variant that this run is asked under."""
    if not run.asks_variants:
        return
    for variant in map(make_variant, run.evaluate.variants):
        for asked in plain:
            if asked.part == CONTROLLED_PART and variant.needs_generation:
                examples = tuple(variant.ask(one) for one in asked.examples)
                yield replace(
                    asked, part=variant_part(asked.part, variant.name), examples=examples, references=None,
                    variant=variant,
                )  # fmt: skip


def _examples(data: DataSet, part: Any, settings: EvaluateConfig) -> tuple[Example, ...]:
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
    asked: _Asked,
    prompts: Mapping[str, str],
    *,
    settings: EvaluateConfig,
    ends: Sequence[int],
    advance: Callable[[int], None],
) -> dict[str, Answer]:
    """Answers by example id, in the order of the examples."""
    rooms = {one.id: prompt_room(model, tokenizer, prompts[one.id]) for one in asked.examples}
    fitting = [one for one in asked.examples if (room := rooms[one.id]) is None or room >= 1]
    if not fitting:
        raise DataError(
            f"At least one prompt must leave room for an answer in the model's context, got none of "
            f"{len(asked.examples)}. Use a shorter template or a model with a longer context."
        )
    how = GenerationSettings(
        max_new_tokens=settings.max_new_tokens,
        repetition_penalty=settings.repetition_penalty,
        batch_size=settings.batch_size,
        end_tokens=ends,
        min_new_tokens=asked.variant.min_new_tokens if asked.variant else 0,
    )
    found: dict[str, Answer] = {}

    def take(place: int, made: Generated) -> None:
        one = fitting[place]
        found[one.id] = Answer(
            one.id, prompts[one.id], made.text, one.reference, num_tokens=made.num_tokens, ended=made.ended
        )
        advance(len(found))

    generate_each(model, tokenizer, [prompts[one.id] for one in fitting], how, on_answer=take)
    return {one.id: found[one.id] for one in fitting}
