"""Text metrics against slow ones, against the packages they follow, and on the authors' own outputs."""

import gzip
import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neftune.evaluation.text_metrics import log_diversity_of, repetition, text_metrics
from tests.reference.metric_text import slow_common_subsequence, slow_log_diversity, slow_repetition

WORDS = st.lists(st.sampled_from(["a", "b", "the", "Cat", "x-1", "é", "."]), max_size=40)


@settings(deadline=None)
@given(words=WORDS, n=st.integers(1, 5))
def test_repetition_is_the_papers_loop(words, n):
    wanted = 100 * slow_repetition(words, n)
    assert repetition("  ".join(words), n=n) == pytest.approx(wanted, nan_ok=True)
    assert text_metrics["repetition_2"](" ".join(words), "") == pytest.approx(
        100 * slow_repetition(words, 2), nan_ok=True
    )
    assert text_metrics["repetition_4"](" ".join(words), "") == pytest.approx(
        100 * slow_repetition(words, 4), nan_ok=True
    )


@settings(deadline=None)
@given(words=WORDS.filter(lambda words: len(words) >= 10))
def test_log_diversity_is_the_papers_code_on_the_first_words(words):
    text, chunk = " ".join(words), words[:10]
    assert log_diversity_of(text, chunk_words=10, scale=0.01) == pytest.approx(slow_log_diversity(chunk, divisor=100))
    assert log_diversity_of(text, chunk_words=10) == pytest.approx(slow_log_diversity(chunk, divisor=1))


def test_by_hand():
    # Pairs looked at: ab ba ab ba (the last one, ab, is not); two of four are new.
    assert repetition("a b a b a b", n=2) == 50.0
    assert repetition("a b c d", n=2) == 0.0
    assert math.isnan(repetition("a b", n=2)), "its only pair is not looked at"
    assert math.isnan(repetition("a b c d", n=2, chunk_words=5))
    assert log_diversity_of(" ".join(map(str, range(50)))) == 20.0
    assert math.isnan(log_diversity_of(" ".join(map(str, range(49)))))
    assert text_metrics["characters"]("né 👍", "") == 4
    assert text_metrics["words"](" a  b\nc ", "") == 3
    assert text_metrics["words"]("", "") == 0


def test_the_authors_outputs_have_the_papers_numbers(shared):
    path = shared / "data" / "alpaca_eval" / "model_outputs.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file]
    texts = [row["output"] for row in rows if row["model"] == "alpaca-7b-neft"]

    def mean(values):
        kept = [value for value in values if not math.isnan(value)]
        return len(kept), statistics.mean(kept)

    assert mean([text_metrics["characters"](text, "") for text in texts])[1] == pytest.approx(1067.5, abs=0.05)
    assert mean([repetition(text, n=2, chunk_words=50) for text in texts]) == (759, pytest.approx(1.42, abs=0.005))
    assert mean([text_metrics["log_diversity_paper"](text, "") for text in texts])[1] == pytest.approx(16.45, abs=0.005)
    assert mean([text_metrics["log_diversity"](text, "") for text in texts])[1] == pytest.approx(15.12, abs=0.005)


@settings(deadline=None)
@given(answer=st.text(alphabet="abC1 -.é\n", max_size=60), reference=st.text(alphabet="abC1 -.é\n", max_size=60))
def test_rouge_l_is_rouge_scores(answer, reference):
    from rouge_score.rouge_scorer import RougeScorer

    got = text_metrics["rouge_l"](answer, reference)
    wanted = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    if any(letter in "abc1" for letter in reference.lower()):
        assert got == pytest.approx(wanted)
    else:
        assert math.isnan(got)
        assert wanted == 0


@settings(deadline=None)
@given(left=WORDS, right=WORDS.filter(bool))
def test_rouge_l_is_the_textbooks(left, right):
    kept = [[word.lower() for word in words if word in ("a", "b", "the", "Cat")] for words in (left, right)]
    if kept[1]:
        common = slow_common_subsequence(*kept)
        got = text_metrics["rouge_l"](" ".join(kept[0]), " ".join(kept[1]))
        assert got == pytest.approx(2 * common / (len(kept[0]) + len(kept[1])))


def test_bleu_is_sacrebleus():
    from sacrebleu import sentence_bleu

    pairs = [
        ("The cat sat on the mat.", "The cat sat on a mat."),
        ("Paris", "Paris"),
        ("the the the the", "the cat"),
        ("", "The cat"),
        ("nothing shared here at all", "quite other words in this one"),
    ]
    for answer, reference in pairs:
        wanted = sentence_bleu(answer, [reference], smooth_method="exp", use_effective_order=True).score
        assert text_metrics["bleu"](answer, reference) == pytest.approx(wanted)
    assert text_metrics["bleu"]("Paris", "Paris") == pytest.approx(100)
    assert math.isnan(text_metrics["bleu"]("Paris", " \n"))
