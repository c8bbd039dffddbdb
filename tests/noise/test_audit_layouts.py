"""Property: whatever noise lies on whatever documents in whatever layout, the audit reads it document by document."""

import math

import pytest
import torch
from benchmarks.pipelines import EmbeddingAlone
from hypothesis import given, settings
from hypothesis import strategies as st

import neftune

WIDTH, ALPHA = 16, 5.0
LAYOUTS = ("right", "left", "packed", "boundaries", "numbered mask")


def arranged(lengths: list[int], layout: str) -> tuple[dict[str, torch.Tensor], list[tuple[int, slice]]]:
    """A batch of the documents, and where each lies in it."""
    if layout in ("right", "left"):
        width = max(lengths)
        starts = [0 if layout == "right" else width - length for length in lengths]
        places = [(row, slice(start, start + n)) for row, (start, n) in enumerate(zip(starts, lengths, strict=True))]
        mask = torch.zeros(len(lengths), width, dtype=torch.long)
        for row, where in places:
            mask[row, where] = 1
        return {"attention_mask": mask}, places
    ends = torch.tensor(lengths).cumsum(0).tolist()
    places = [(0, slice(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    if layout == "boundaries":
        return {"cu_seq_lens_q": torch.tensor([0, *ends], dtype=torch.int32)}, places
    if layout == "packed":
        return {"position_ids": torch.cat([torch.arange(length) for length in lengths])[None]}, places
    return {
        "attention_mask": torch.repeat_interleave(torch.arange(len(lengths)) + 1, torch.tensor(lengths))[None]
    }, places


class Batch(EmbeddingAlone):
    def forward(self, input_ids, attention_mask=None, position_ids=None, cu_seq_lens_q=None):
        return self.embed(input_ids)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**30),
)
def test_every_document_is_read(lengths, layout, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    batch, places = arranged(lengths, layout)
    rows = len(lengths) if layout in ("right", "left") else 1
    ids = torch.randint(3, 100, (rows, max(where.stop for _, where in places)), generator=generator)
    noise = torch.randn(*ids.shape, WIDTH, dtype=dtype, generator=generator)
    noise *= torch.rand(*ids.shape, 1, dtype=dtype, generator=generator)
    model = Batch(WIDTH, dtype=dtype).train()
    model.embed.register_forward_hook(lambda _module, _args, output: output + noise)
    with neftune.audit(model, ALPHA) as audit:
        model(input_ids=ids, **batch)
    finding = audit.result().find()
    expected = sorted(
        (where.stop - where.start, float(noise[row, where].norm()) * math.sqrt(3) / ALPHA) for row, where in places
    )
    seen = sorted((group.shortest, group.mean) for group in finding.groups)
    assert [length for length, _ in seen] == [length for length, _ in expected]
    assert [ratio for _, ratio in seen] == pytest.approx([ratio for _, ratio in expected], rel=1e-4)
    assert finding.num_padding == ids.numel() - sum(lengths)
    for row, where in places:
        noise[row, where] = 0
    padding = float(noise.square().sum())
    assert finding.padding_rms**2 * max(finding.num_padding, 1) * WIDTH == pytest.approx(padding, rel=1e-3, abs=1e-6)
