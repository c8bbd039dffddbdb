"""Numbers that a text has by itself or against its reference: length, repetition, diversity, overlap.

Every metric is a function (answer, reference) -> float, NaN where it is undefined for that pair. "Words" are what
whitespace separates. Add one with `@text_metric`; docs/extend/text_metric.md shows how.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from neftune.errors import MissingExtraError
from neftune.registry import Registry

Direction = Literal["higher", "lower", "neither"]
Compute = Callable[[str, str], float]

CHUNK_WORDS = 50
"""Words that log-diversity looks at: with 50 the authors' published Alpaca outputs give the paper's table 4."""

_WEBTEXT = (
    "arXiv 2310.05914, table 4 and section 'Repetition'; its code is that of arXiv 2306.04634 "
    "(jwkirchenbauer/lm-watermarking, watermark_reliability_release/utils/metrics/repetition_diversity.py)"
)


@dataclass(frozen=True, slots=True)
class TextMetric:
    """One number per answer.

    Attributes:
        name: Its name in scores and tables.
        unit: What one unit of it is ("words", "%", ...).
        direction: Whether more is better, worse, or neither.
        source: Paper, equation or package it follows.
        compute: (answer, reference) -> value; NaN where undefined.
    """

    name: str
    unit: str
    direction: Direction
    source: str
    compute: Compute

    def __call__(self, answer: str, reference: str) -> float:
        """The value for one answer; NaN where it is undefined."""
        return self.compute(answer, reference)


text_metrics: Registry[TextMetric] = Registry("text metric")
"""Every text metric by name; all of them are scored in every run."""


def text_metric(name: str, *, unit: str, direction: Direction, source: str) -> Callable[[Compute], Compute]:
    """Decorator that adds a function (answer, reference) -> float to `text_metrics`.

    Raises:
        ValueError: The name is taken.
    """

    def add(compute: Compute) -> Compute:
        text_metrics.register(name)(TextMetric(name, unit, direction, source, compute))
        return compute

    return add


@text_metric("characters", unit="characters", direction="neither", source="AlpacaEval's avg_length")
def characters(answer: str, reference: str) -> float:
    """Length in Unicode code points."""
    return float(len(answer))


@text_metric("words", unit="words", direction="neither", source="split at whitespace")
def words(answer: str, reference: str) -> float:
    """Length in whitespace-separated words."""
    return float(len(answer.split()))


@text_metric("repetition_2", unit="%", direction="lower", source=_WEBTEXT)
def repetition_2(answer: str, reference: str) -> float:
    """Repeated word pairs of the whole answer, see `repetition`."""
    return repetition(answer, n=2)


@text_metric("repetition_4", unit="%", direction="lower", source=_WEBTEXT)
def repetition_4(answer: str, reference: str) -> float:
    """Repeated runs of four words of the whole answer, see `repetition`."""
    return repetition(answer, n=4)


@text_metric("log_diversity_paper", unit="nats", direction="higher", source=_WEBTEXT)
def log_diversity_paper(answer: str, reference: str) -> float:
    """Log-diversity of the first 50 words with the paper's slip kept, see `log_diversity_of`."""
    return log_diversity_of(answer, scale=0.01)


@text_metric("log_diversity", unit="nats", direction="higher", source=_WEBTEXT)
def log_diversity(answer: str, reference: str) -> float:
    """Log-diversity of the first 50 words as its authors define it, see `log_diversity_of`."""
    return log_diversity_of(answer)


@text_metric("rouge_l", unit="fraction", direction="higher", source="rouge-score 0.1.2 (rougeL, F1, no stemming)")
def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 in 0 to 1: longest common subsequence of lower-cased [a-z0-9] words.

    On training prompts a high value means that the reference is reproduced. NaN where the reference has no such
    word (another script, pure punctuation); rouge-score gives 0 there.
    """
    wanted, got = _rouge_words(reference), _rouge_words(answer)
    if not wanted:
        return math.nan
    if not got:
        return 0.0
    return 2 * _common_subsequence()(got, wanted) / (len(got) + len(wanted))


@text_metric("bleu", unit="BLEU points", direction="higher", source="sacrebleu 2: tok:13a, smooth:exp, effective order")
def bleu(answer: str, reference: str) -> float:
    """Sentence BLEU-4 in 0 to 100: 13a tokens, case kept, exponential smoothing.

    Effective order: a text shorter than four words is judged by the orders it has. NaN for an empty reference.
    """
    if not reference.strip():
        return math.nan
    return float(_sentence_bleu()(answer, [reference]).score)


def repetition(text: str, *, n: int, chunk_words: int | None = None) -> float:
    """Share of n-grams of words that repeat an earlier one, in percent.

    As in the paper's code, the last n-gram is not looked at (its loop ends one early). A longer text repeats more
    by chance: compare arms of unlike length on a chunk.

    Args:
        text: What is looked at.
        n: Words in an n-gram.
        chunk_words: Look at the first so many words only; None takes the whole text.

    Returns:
        0 to 100; NaN for a text shorter than the chunk or with no n-gram to look at.

    Source: arXiv 2310.05914, table 4; arXiv 2306.04634, appendix A.
    """
    tokens = text.split()
    if chunk_words is not None and len(tokens) < chunk_words:
        return math.nan
    return 100 * _repeated(tokens[:chunk_words], n)


def log_diversity_of(text: str, *, chunk_words: int = CHUNK_WORDS, scale: float = 1.0) -> float:
    """-ln(1 - D) with D = product over n = 2, 3, 4 of (1 - share of repeated n-grams), at most 20.

    Args:
        text: What is looked at.
        chunk_words: Look at the first so many words only (paper's table 4: 50 for Alpaca, 100 for Evol-Instruct).
        scale: Factor on the repeated share. The paper's code divides a fraction by 100 as if it were percent, so
            its numbers need 0.01 and lie near 16 where the definition gives 15.

    Returns:
        0 to 20, more is more diverse; NaN for a text shorter than the chunk or without n-grams.

    Source: arXiv 2310.05914, table 4; arXiv 2306.04634, appendix A.
    """
    tokens = text.split()
    if len(tokens) < chunk_words:
        return math.nan
    diversity = math.prod(1 - scale * _repeated(tokens[:chunk_words], n) for n in (2, 3, 4))
    return -math.log(max(1 - diversity, math.exp(-20)))


def _repeated(tokens: list[str], n: int) -> float:
    """Share of repeated n-grams, 0 to 1; NaN where there is none to look at."""
    ngrams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else math.nan


def _rouge_words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


@lru_cache(maxsize=1)
def _common_subsequence() -> Callable[[list[str], list[str]], int]:
    try:
        from rapidfuzz.distance import LCSseq
    except ImportError as error:
        raise MissingExtraError(_missing("ROUGE-L", "rapidfuzz")) from error
    return LCSseq.similarity


@lru_cache(maxsize=1)
def _sentence_bleu() -> Callable[[str, list[str]], Any]:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError(_missing("BLEU", "sacrebleu")) from error
    return BLEU(smooth_method="exp", effective_order=True).sentence_score


def _missing(metric: str, package: str) -> str:
    return f"{metric} needs {package}, which is not installed. Run: pip install 'neftune[eval]'"
