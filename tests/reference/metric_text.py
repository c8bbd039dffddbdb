"""Text metrics, slow and plain, as the paper's code and textbooks have them."""

import math


def slow_repetition(words: list[str], n: int) -> float:
    """Share of repeated n-grams, by the loop of the watermarking repository."""
    seen: dict[str, int] = {}
    total = 0
    start, end = 0, n
    while end < len(words):
        ngram = " ".join(words[start:end])
        seen[ngram] = seen.get(ngram, 0) + 1
        total += 1
        start, end = start + 1, end + 1
    return 1 - len(seen) / total if total else math.nan


def slow_log_diversity(words: list[str], *, divisor: float) -> float:
    """Its log-diversity; the repository divides fractions by 100."""
    product = 1.0
    for n in (2, 3, 4):
        product *= 1 - slow_repetition(words, n) / divisor
    return -math.log(max(1 - product, math.exp(-20)))


def slow_common_subsequence(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence, by the textbook's table."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]
