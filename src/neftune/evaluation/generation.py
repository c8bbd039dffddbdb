"""Greedy answers to many prompts, in batches sorted by length under a memory budget."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig

from neftune.data.prompts import encode_prompt
from neftune.errors import DataError, ModelError
from neftune.evaluation.decoding import Greedy, decode
from neftune.evaluation.losses import base_model, check_decoder_only, evaluation_mode
from neftune.records import Document


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer.

    Attributes:
        text: The answer without special tokens, outer whitespace removed.
        num_tokens: Tokens generated, end-of-sequence not counted.
        ended: Whether the model stopped by itself rather than at the limit.
    """

    text: str
    num_tokens: int
    ended: bool


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How answers are generated.

    Attributes:
        max_new_tokens: Longest answer in tokens, >= 1.
        repetition_penalty: Divides the positive and multiplies the negative logits of every token that the prompt or
            the answer already holds, > 0 (paper: 1.2; 1.0 is off). Source: arXiv 1909.05858, section 4.1.
        min_new_tokens: Every token that ends an answer is blocked until the answer has so many tokens, 0 to
            max_new_tokens; only the context may end it earlier.
        end_tokens: Ids of further tokens that end an answer, see `response_ends`.
        batch_size: Most prompts answered together, >= 1.
        cache_bytes: Memory for keys and values; fewer prompts are answered together where their longest answers
            would not fit. One always is.

    Raises:
        DataError: A number is out of range.
    """

    max_new_tokens: int
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    end_tokens: Sequence[int] = ()
    batch_size: int = 64
    cache_bytes: int = 4 * 2**30

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "cache_bytes"):
            if (number := getattr(self, name)) < 1:
                raise DataError(f"{name} must be >= 1, got {number}.")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise DataError(
                f"min_new_tokens must be from 0 to max_new_tokens={self.max_new_tokens}, got {self.min_new_tokens}."
            )
        if not self.repetition_penalty > 0:
            raise DataError(f"repetition_penalty must be > 0, got {self.repetition_penalty}. 1.0 is off.")


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
    batch_size: int = 64,
    end_tokens: Sequence[int] = (),
    min_new_tokens: int = 0,
) -> list[Generated]:
    """Greedy answers, one per prompt, in the order given; see `generate_each` and `GenerationSettings`."""
    settings = GenerationSettings(max_new_tokens, repetition_penalty, min_new_tokens, end_tokens, batch_size)
    answers: dict[int, Generated] = {}
    generate_each(model, tokenizer, prompts, settings, on_answer=answers.__setitem__)
    return [answers[index] for index in range(len(prompts))]


def generate_each(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    settings: GenerationSettings,
    *,
    on_answer: Callable[[int, Generated], None],
) -> None:
    """Greedy answers, handed over one by one as they are done.

    The model's own generation settings (sampling, lengths, forbidden words) do not apply, except that a special token
    which they name as end-of-sequence ends an answer too. In float32 an answer does not depend on what shares its
    batch. A prompt near the end of the context gets as many tokens as there is room for.

    Args:
        model: A causal language model of transformers, with or without PEFT adapters; evaluated without noise or
            dropout, its mode is put back.
        tokenizer: Its tokenizer; prompts are encoded as in training.
        prompts: Rendered prompts, up to where the answer starts.
        settings: How.
        on_answer: Called with a prompt's place and its answer, shorter prompts first.

    Raises:
        DataError: No prompts, an empty one, or one that leaves no room for a token (see `prompt_room`).
        ModelError: An encoder-decoder model, or a tokenizer without an end-of-sequence token.
    """
    check_decoder_only(model)
    encoded = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    limits = _limits(model, encoded, settings.max_new_tokens)
    config = _greedy(model, tokenizer, settings.end_tokens)
    with evaluation_mode(model), _without_own_settings(model):
        for indices in _batches(model, encoded, limits, settings):

            def finish(row: int, ids: list[int], indices: Sequence[int] = indices) -> None:
                index = indices[row]
                on_answer(index, _answer(ids[: limits[index]], tokenizer, config.eos_token_id))

            greedy = Greedy(
                limits=[limits[index] for index in indices],
                ends=config.eos_token_id,
                penalty=settings.repetition_penalty,
                min_new_tokens=settings.min_new_tokens,
                context=_context_length(model),
                finish=finish,
            )
            _generate_batch(model, [encoded[index] for index in indices], config, greedy)


def cache_bytes_per_token(model: Any) -> int:
    """Bytes of keys and values that a full-attention cache holds per token of one row, >= 1."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return max(1, 2 * config.num_hidden_layers * kept * width * model.dtype.itemsize)


def _batches(
    model: Any, encoded: Sequence[Sequence[int]], limits: Sequence[int], settings: GenerationSettings
) -> Iterator[list[int]]:
    """Prompts by length, cut where a batch is full or its cache could outgrow its memory."""
    cache_tokens = settings.cache_bytes // cache_bytes_per_token(model)
    batch: list[int] = []
    for index in sorted(range(len(encoded)), key=lambda index: len(encoded[index])):
        # The newest is the longest, and every row is as wide as the longest.
        width = len(encoded[index]) + max(limits[one] for one in [*batch, index])
        if batch and (len(batch) == settings.batch_size or (len(batch) + 1) * width > cache_tokens):
            yield batch
            batch = []
        batch.append(index)
    yield batch


def prompt_room(model: Any, tokenizer: Any, prompt: str) -> int | None:
    """Tokens that the model's context leaves for an answer, below 1 where it leaves none; None without a limit."""
    context = _context_length(model)
    return None if context is None else context - len(encode_prompt(prompt, tokenizer))


def _context_length(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _limits(model: Any, encoded: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """Longest answer per prompt in tokens, all >= 1."""
    if not encoded:
        raise DataError("Generation needs at least one prompt, got none. Check the part's examples.")
    context = _context_length(model)
    for position, ids in enumerate(encoded):
        if not ids:
            raise DataError(f"A prompt needs at least one token, got none in prompt {position}. Use a template.")
        if context is not None and len(ids) >= context:
            raise DataError(
                f"A prompt must leave room for an answer in the model's context of {context} tokens, got {len(ids)} "
                f"tokens in prompt {position}. Leave it out or shorten it."
            )
    return [max_new_tokens if context is None else min(max_new_tokens, context - len(ids)) for ids in encoded]


def response_ends(documents: Iterable[Document], tokenizer: Any) -> tuple[int, ...]:
    """Ids of the special tokens that responses end with: what training teaches a model to stop at.

    A chat template may end a turn with another token than EOS. Truncated documents have lost their end.
    """
    last = {document.input_ids[-1] for document in documents if document.loss_mask[-1] and not document.truncated}
    return tuple(sorted(last & _special_ids(tokenizer) - {tokenizer.bos_token_id, tokenizer.unk_token_id}))


def _special_ids(tokenizer: Any) -> set[int]:
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _greedy(model: Any, tokenizer: Any, end_tokens: Sequence[int]) -> GenerationConfig:
    own = _end_tokens(model, tokenizer)
    ends = [*own, *(index for index in end_tokens if index not in own)]
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        eos_token_id=ends,
        pad_token_id=ends[0] if pad is None else pad,
        use_cache=True,
    )


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokenizer's EOS first, then the special tokens that the model's generation settings name as EOS.

    Others that they name are left out: a model made from a bare config names id 2, whatever that token is.
    """
    end: int | None = tokenizer.eos_token_id
    if end is None:
        raise ModelError(
            "Generation needs a tokenizer with an end-of-sequence token, got none. Set tokenizer.eos_token."
        )
    own = getattr(base_model(model).generation_config, "eos_token_id", None)
    named: list[int] = own if isinstance(own, list) else [] if own is None else [own]
    special = _special_ids(tokenizer)
    return [end, *(index for index in named if index in special and index != end)]


@contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """The model's generation settings emptied: `generate` would fill ours up with them."""
    holders = [model] if base_model(model) is model else [model, base_model(model)]
    kept = [holder.generation_config for holder in holders]
    # It counts padding, so it warns of a full context too early; limits here are per row.
    log = logging.getLogger("transformers.generation.stopping_criteria")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        for holder in holders:
            holder.generation_config = GenerationConfig()
        yield
    finally:
        log.setLevel(level)
        for holder, config in zip(holders, kept, strict=True):
            holder.generation_config = config


def _generate_batch(model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, greedy: Greedy) -> None:
    length = max(len(ids) for ids in prompts)
    # Padding repeats the row's own first token, so that the repetition penalty sees no token that the row has not.
    ids_BL = torch.tensor([[ids[0]] * (length - len(ids)) + list(ids) for ids in prompts])
    real_BL = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts])
    config.max_new_tokens = max(greedy.limits)
    model.generate(
        input_ids=ids_BL.to(model.device),
        attention_mask=real_BL.to(model.device),
        generation_config=config,
        custom_generate=partial(decode, greedy=greedy),
    )


def _answer(ids: Sequence[int], tokenizer: Any, ends: Sequence[int]) -> Generated:
    stop = next((position for position, token in enumerate(ids) if token in ends), None)
    kept = list(ids if stop is None else ids[:stop])
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Generated(text=text.strip(), num_tokens=len(kept), ended=stop is not None)
