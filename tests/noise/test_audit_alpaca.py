"""The audit reproduces what docs/method.md says transformers' hook does to Alpaca, and finds ours exact."""

import pytest
import torch
from benchmarks.pipelines import alpaca_lengths, measure, packed, padded, shuffled

from neftune.noise.findings import AuditResult

NUM_DOCUMENTS = 12_000

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def lengths(shared) -> list[int]:
    return alpaca_lengths(shared / "data" / "train" / "alpaca_52k.jsonl.gz")


def audit(provider: str, layout: str, size: int, lengths: list[int]) -> AuditResult:
    torch.manual_seed(0)
    batches = packed(lengths, size) if layout == "packed" else padded(shuffled(lengths, NUM_DOCUMENTS), size)
    return measure(provider, batches)


@pytest.mark.parametrize(
    ("layout", "size", "mean", "fifth_percentile"),
    [
        ("padded", 4, 0.80, 0.51),
        ("padded", 16, 0.67, 0.43),
        ("padded", 32, 0.63, 0.40),
        ("packed", 2048, 0.24, None),
        ("packed", 8192, 0.12, None),
    ],
)
def test_alpaca(layout, size, mean, fifth_percentile, lengths):
    chosen = lengths if layout == "padded" else shuffled(lengths, NUM_DOCUMENTS)
    finding = audit("transformers", layout, size, chosen).find()
    assert finding.mean == pytest.approx(mean, abs=0.02)
    if fifth_percentile is not None:
        assert finding.fifth_percentile == pytest.approx(fifth_percentile, abs=0.02)
        assert finding.padding_rms > 0
    means = [group.mean for group in finding.groups]
    assert means[0] < finding.mean < means[-1], "the shorter, the less"
    ours = audit("neftune", layout, size, chosen[:2000])
    assert ours.is_exact
    assert ours.find().mean == pytest.approx(1.0, abs=0.01)
    assert ours.find().padding_rms == 0
