import pytest
import torch

from neftune.errors import NoiseError
from neftune.noise.documents import read_layout
from neftune.noise.meter import Meter

CPU = torch.device("cpu")


def recorded(*norms: float) -> Meter:
    """A meter that saw one document of four tokens per norm, in batches of one."""
    meter = Meter()
    for norm in norms:
        noise = torch.full((1, 4, 8), norm / 32**0.5)
        meter.record(noise, torch.full((1, 4, 8), 2.0), read_layout((1, 4), CPU), unit_norm=3**-0.5)
        meter.num_forwards += 1
    return meter


def test_what_was_recorded_is_read():
    realised = recorded(2.0, 3.0).realised()
    assert realised.alpha_mean == pytest.approx(2.5 * 3**0.5)
    assert (realised.alpha_min, realised.alpha_max) == pytest.approx((2 * 3**0.5, 3 * 3**0.5))
    assert realised.noise_to_embedding == pytest.approx((13 / 64) ** 0.5 / 2)
    assert (realised.num_documents, realised.num_tokens, realised.num_forwards) == (2, 8, 2)


def test_padding_and_packing():
    noise, embeddings = torch.ones(1, 6, 8), torch.full((1, 6, 8), 5.0)
    layout = read_layout((1, 6), CPU, cu_seqlens=torch.tensor([0, 1, 4]))
    noise[:, 4:] = 0
    meter = Meter()
    meter.record(noise, embeddings, layout, unit_norm=1.0)
    realised = meter.realised()
    assert (realised.num_documents, realised.num_tokens) == (2, 4)
    assert (realised.alpha_min, realised.alpha_max) == pytest.approx((8**0.5, 24**0.5))
    assert realised.noise_to_embedding == pytest.approx(0.2)


def test_totals_since():
    meter = recorded(2.0)
    earlier = meter.totals()
    noise = torch.full((1, 4, 8), 4 / 32**0.5)
    meter.record(noise, torch.ones(1, 4, 8), read_layout((1, 4), CPU), unit_norm=1.0)
    recent = meter.totals().since(earlier)
    assert (recent.num_documents, recent.num_tokens) == (1, 4)
    assert recent.alpha_mean == pytest.approx(4.0)


def test_state_goes_on_to_the_bit():
    straight, first = recorded(2.0, 3.0, 5.0), recorded(2.0)
    resumed = Meter()
    resumed.restore(first.state())
    for norm in (3.0, 5.0):
        noise = torch.full((1, 4, 8), norm / 32**0.5)
        resumed.record(noise, torch.full((1, 4, 8), 2.0), read_layout((1, 4), CPU), unit_norm=3**-0.5)
        resumed.num_forwards += 1
    assert resumed.realised() == straight.realised()


def test_no_data_is_an_error():
    with pytest.raises(NoiseError, match="there is no realised noise to read: 0 training forwards, 0 documents"):
        Meter().realised()
    nothing = read_layout((1, 2), CPU, attention_mask=torch.zeros(1, 2))
    meter = Meter()
    meter.record(torch.zeros(1, 2, 4), torch.ones(1, 2, 4), nothing, unit_norm=1.0)
    with pytest.raises(NoiseError, match="0 documents noised"):
        meter.realised()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_autocast_does_not_change_the_reading(dtype):
    noise, embeddings = torch.randn(2, 5, 64), torch.randn(2, 5, 64).to(dtype)
    readings = []
    for enabled in (False, True):
        meter = Meter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            meter.record(noise, embeddings, read_layout((2, 5), CPU), unit_norm=1.0)
        readings.append(meter.realised())
    assert readings[0] == readings[1]
