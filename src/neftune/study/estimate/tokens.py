"""Tokens of a run: counted as the run does where data and tokenizer are at hand, else estimated, and said so."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neftune.config import RunConfig
from neftune.records import CONTROLLED_PART, DataSet, Example, variant_part
from neftune.study.estimate.datasets import examples_at_hand, published_lengths
from neftune.study.estimate.shapes import tokenizer_at_hand

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Numbers = NDArray[np.int64]

CHARACTERS_PER_TOKEN = {32_768: 3.17, 10**9: 3.94}
"""Characters of English a token, by the largest vocabulary it holds for: Llama 2's (32,000) and Llama 3's (128,256).

Source: Llama 3, arXiv 2407.21783, section 3.2.
"""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Lengths in tokens of all that a run reads and is asked.

    Attributes:
        train: Length of every training document, ascending.
        watched: Of those whose clean loss is measured while training.
        references: By evaluation part, of documents whose loss is measured.
        prompts: By evaluation part and variant, of prompts that are answered.
        exact: Whether they were counted.
        evidence: How they were, or what the estimate rests on.
    """

    train: Numbers
    watched: Numbers
    references: dict[str, Numbers] = field(default_factory=dict[str, Numbers])
    prompts: dict[str, Numbers] = field(default_factory=dict[str, Numbers])
    exact: bool = True
    evidence: str = ""

    @property
    def num_train(self) -> int:
        """Tokens of one pass over the training data, padding left out."""
        return int(self.train.sum())


def padded(lengths: Numbers, rows: int) -> tuple[float, float]:
    """Tokens of one pass in random batches of ``rows``, padding included, and the mean length that a token sees.

    The expectation over all orders, in closed form: the longest of ``rows`` documents drawn without replacement is the
    i-th shortest of n with probability C(i-1, rows-1) / C(n, rows).

    Returns:
        Padded tokens; their mean padded length, each token counted (what attention's cost grows with).
    """
    from scipy.special import gammaln  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    num = len(lengths)
    rows = min(rows, num)
    ranks = np.arange(rows, num + 1, dtype=np.float64)
    log = gammaln(ranks) - gammaln(rows) - gammaln(ranks - rows + 1)
    log -= gammaln(num + 1) - gammaln(rows + 1) - gammaln(num - rows + 1)
    chance = np.exp(log)
    longest = lengths[rows - 1 :].astype(np.float64)
    mean, square = float(chance @ longest), float(chance @ longest**2)
    return num * mean, square / mean


def run_tokens(config: RunConfig, *, vocabulary: int, tokens_per_example: float | None = None) -> Tokens:
    """Lengths of a run's documents and prompts.

    Args:
        config: The run.
        vocabulary: Size of the model's vocabulary; chooses the ratio where there is no tokenizer.
        tokens_per_example: Mean length to take instead of any text, in tokens.

    Raises:
        DataError: Data that is here is broken, or holds too little.
        ConfigError: Nothing is known of the data's length.
    """
    asks = config.asks_variants
    key = config.model_copy(update={"noise": type(config.noise)(alpha=0.0), "seed": 0, "stop_at_train_loss_of": None})
    return _run_tokens(key.model_dump_json(), asks, vocabulary, tokens_per_example)


@functools.lru_cache(maxsize=64)
def _run_tokens(config_json: str, asks: bool, vocabulary: int, stated: float | None) -> Tokens:
    config = RunConfig.model_validate_json(config_json)
    data = None if stated else examples_at_hand(config.data)
    if data is None:
        return _from_sizes(config, asks, vocabulary, stated)
    tokenizer = tokenizer_at_hand(config.model)
    if tokenizer is None:
        return _from_characters(config, asks, data, vocabulary)
    return _counted(config, asks, data, tokenizer)


def _counted(config: RunConfig, asks: bool, data: DataSet, tokenizer: "PreTrainedTokenizerBase") -> Tokens:
    from neftune.data.batches import tokenise
    from neftune.data.prompts import encode_prompt, render_prompt, resolve_template

    template = resolve_template(config.data.template, tokenizer)

    def documents(examples: Sequence[Example]) -> Numbers:
        made = tokenise(examples, tokenizer, template=template, max_length=config.data.max_length).documents
        return np.array([len(document.input_ids) for document in made])

    def prompts(examples: Sequence[Example]) -> Numbers:
        texts = [render_prompt(one, template=template, tokenizer=tokenizer) for one in examples]
        return np.sort([len(encode_prompt(text, tokenizer)) for text in texts])

    evidence = "with the model's tokenizer, as the run does"
    return _tokens(config, asks, data, documents, prompts, exact=True, evidence=evidence)


def _from_characters(config: RunConfig, asks: bool, data: DataSet, vocabulary: int) -> Tokens:
    from neftune.data.prompts import render

    ratio = characters_per_token(vocabulary)
    template = "alpaca" if config.data.template in ("auto", "chat") else config.data.template
    stand_in: Any = _NoTokenizer()

    def lengths(examples: Sequence[Example], *, whole: bool) -> Numbers:
        made = [render(one, template=template, tokenizer=stand_in) for one in examples]
        texts = [one.prompt + one.response if whole else one.prompt for one in made]
        return np.maximum(1, np.ceil(np.array([len(text) for text in texts]) / ratio)).astype(np.int64)

    def documents(examples: Sequence[Example]) -> Numbers:
        return np.minimum(lengths(examples, whole=True), config.data.max_length)

    def prompts(examples: Sequence[Example]) -> Numbers:
        return np.sort(lengths(examples, whole=False))

    evidence = f"the data at {ratio} characters a token, without the tokenizer"
    return _tokens(config, asks, data, documents, prompts, exact=False, evidence=evidence)


def _tokens(
    config: RunConfig, asks: bool, data: DataSet, documents: Any, prompts: Any, *, exact: bool, evidence: str
) -> Tokens:
    train, heldout = documents(data.parts["train"]), documents(data.parts["heldout"])
    settings = config.evaluate
    asked = {
        part: data.parts[part][: settings.num_train_prompts] if part == "train" else data.parts[part]
        for part in settings.parts
    }
    answered = {part: [one for one in examples if one.reference] for part, examples in asked.items()}
    shown = {part: prompts(examples) for part, examples in asked.items()}
    return Tokens(
        train=np.sort(train),
        watched=np.concatenate([train[: config.train.num_clean_train], heldout[: config.train.num_clean_heldout]]),
        references={part: np.sort(documents(examples)) for part, examples in answered.items() if examples},
        prompts={**shown, **_variants(config, asks, shown)},
        exact=exact,
        evidence=evidence,
    )


def _from_sizes(config: RunConfig, asks: bool, vocabulary: int, stated: float | None) -> Tokens:
    """Lengths from the recipe's numbers of examples, and a stated mean or what was measured of the data set."""
    found = published_lengths(config.data, ratio=characters_per_token(vocabulary), tokens_per_example=stated)
    settings = config.evaluate
    sizes = {"train": min(settings.num_train_prompts, found.num_train), "heldout": found.num_heldout}
    sizes["test"] = found.num_test
    shown = {part: found.prompts(sizes[part]) for part in settings.parts}
    watched = min(config.train.num_clean_train, found.num_train) + min(config.train.num_clean_heldout, sizes["heldout"])
    return Tokens(
        train=found.documents(found.num_train),
        watched=found.documents(watched),
        references={part: found.documents(sizes[part]) for part in settings.parts},
        prompts={**shown, **_variants(config, asks, shown)},
        exact=False,
        evidence=found.evidence,
    )


def _variants(config: RunConfig, asks: bool, prompts: dict[str, Numbers]) -> dict[str, Numbers]:
    """The test part's prompts once more for each variant that is asked; a variant's own sentence is not counted."""
    from neftune.evaluation.variants import make_variant

    made = [one for one in map(make_variant, config.evaluate.variants) if asks and one.needs_generation]
    return {variant_part(CONTROLLED_PART, one.name): prompts[CONTROLLED_PART] for one in made}


def characters_per_token(vocabulary: int) -> float:
    """Characters of English a token of a vocabulary of this size."""
    return next(ratio for largest, ratio in CHARACTERS_PER_TOKEN.items() if vocabulary <= largest)


class _NoTokenizer:
    """What the plain templates ask of a tokenizer."""

    eos_token = "</s>"
    bos_token = "<s>"
    chat_template = None
    name_or_path = "none"
