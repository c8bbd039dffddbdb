"""Examples as token ids, with the tokens that are trained on marked."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neftune.data.prompts import Rendered, bos_ids, brings_bos, encode_all, render, resolve_template
from neftune.errors import DataError, ModelError
from neftune.records import Document, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 4096
"""Examples rendered and tokenised at once: bounds the memory that texts and offsets take."""


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Documents in the order of their examples, and what was counted on the way.

    Attributes:
        documents: One document per example that has a response token left.
        counts: "truncated" (cut to max_length and kept), "dropped_no_response" (no response token within
            max_length) and "special_tokens_in_text" (the example's own text holds a special token, which the
            tokenizer takes as such).
    """

    documents: tuple[Document, ...]
    counts: Mapping[str, int]


def tokenise(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", *, template: str, max_length: int
) -> Tokenised:
    """Documents of examples: BOS where the tokenizer puts one, prompt, response, EOS.

    The prompt and the response are tokenised apart, so the ids of `encode_prompt(render_prompt(example))` are the
    beginning of the document's. The loss covers every assistant turn and the token that ends it, nothing else.

    Args:
        examples: What is tokenised.
        tokenizer: A tokenizer with an end-of-sequence token.
        template: A registered prompt template, or "auto".
        max_length: Longest document in tokens; longer ones lose their end.

    Raises:
        DataError: There is no example, or none has a response token within max_length.
        ModelError: The tokenizer cannot be used with this template.
    """
    if not examples:
        raise DataError("tokenising needs at least one example, got none.")
    template = resolve_template(template, tokenizer)
    counts = Counter(truncated=0, dropped_no_response=0, special_tokens_in_text=0)
    specials = [str(token) for token in tokenizer.all_special_tokens]
    documents: list[Document] = []
    for first in range(0, len(examples), _CHUNK):
        chunk = examples[first : first + _CHUNK]
        for example, document in zip(chunk, _documents(chunk, tokenizer, template), strict=True):
            counts["special_tokens_in_text"] += _holds_any(specials, example)
            kept = _cut(document, max_length)
            counts["truncated"] += kept.truncated and any(kept.loss_mask)
            counts["dropped_no_response"] += not any(kept.loss_mask)
            if any(kept.loss_mask):
                documents.append(kept)
    if not documents:
        raise DataError(
            f"at least one example must have a response token within data.max_length={max_length} tokens, "
            f"got none of {len(examples)}. Raise data.max_length."
        )
    return Tokenised(tuple(documents), dict(counts))


def _documents(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", template: str) -> Iterator[Document]:
    rendered = [render(example, template=template, tokenizer=tokenizer) for example in examples]
    prompts = _prompt_tokens(rendered, tokenizer)
    responses = continuation_ids([one.response for one in rendered], tokenizer)
    for example, (prompt, mask), response in zip(examples, prompts, responses, strict=True):
        yield Document(example.id, (*prompt, *response), (*mask, *([True] * len(response))))


def _prompt_tokens(
    rendered: Sequence[Rendered], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids of each prompt, and which of them belong to the responses of earlier turns."""
    needs_offsets = any(one.spans for one in rendered)
    if needs_offsets and not tokenizer.is_fast:
        raise ModelError(
            "finding the responses in a conversation of several turns needs a fast tokenizer, got "
            f"{type(tokenizer).__name__}. Convert it to tokenizer.json, or use single-turn data."
        )
    texts = [one.prompt for one in rendered]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=needs_offsets, verbose=False)
    bos = bos_ids(tokenizer)
    for index, one in enumerate(rendered):
        start, ids = [] if brings_bos(one.prompt, tokenizer) else bos, encoded["input_ids"][index]
        mask = _mask(encoded["offset_mapping"][index], one.spans) if one.spans else [False] * len(ids)
        yield [*start, *ids], [False] * len(start) + mask


def _mask(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each token lies inside a span; one that reaches across its start belongs to what stands before."""
    mask: list[bool] = []
    remaining = iter(spans)
    span = next(remaining, None)
    for start, end in offsets:
        while span and start >= span[1]:
            span = next(remaining, None)
        # Some tokenizers report a token of spaces as empty, at the end of the spaces.
        mask.append(bool(span) and (span[0] <= start < end or span[0] < start == end))
    return mask


def continuation_ids(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of texts that go on from other text.

    Tokenizers of the sentencepiece kind put a space before a text. A response does not stand at the start of one, so
    it is tokenised behind a character that is then taken off again.
    """
    anchor, anchor_ids = _anchor(tokenizer)
    found = encode_all([anchor + text for text in texts], tokenizer)
    merged = [index for index, ids in enumerate(found) if ids[: len(anchor_ids)] != anchor_ids]
    found = [ids[len(anchor_ids) :] for ids in found]
    if merged:
        for index, ids in zip(merged, encode_all([texts[index] for index in merged], tokenizer), strict=True):
            found[index] = ids
    return found


def _anchor(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, list[int]]:
    """A text and its ids to tokenise continuations behind; empty if the tokenizer puts nothing before a text."""
    for text in ("\n", ":", ".", "a"):
        alone, ids, behind = encode_all(["a", text, f"{text}a"], tokenizer)
        if ids and tokenizer.unk_token_id not in ids and behind[: len(ids)] == ids:
            return ("", []) if behind[len(ids) :] == alone else (text, ids)
    return "", []


def _cut(document: Document, max_length: int) -> Document:
    if len(document.input_ids) <= max_length:
        return document
    return Document(
        document.example_id, document.input_ids[:max_length], document.loss_mask[:max_length], truncated=True
    )


def _holds_any(tokens: Sequence[str], example: Example) -> bool:
    texts = [example.input, *(turn.content for turn in example.turns)]
    return any(token in text for token in tokens for text in texts)
