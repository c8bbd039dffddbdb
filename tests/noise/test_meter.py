import pytest
import torch

from neftune.errors import NoiseError
from neftune.noise.add import Squares
from neftune.noise.documents import Layout, read_layout
from neftune.noise.meter import Meter

CPU = torch.device("cpu")


def record(meter: Meter, noise: torch.Tensor, embeddings: torch.Tensor, layout: Layout, *, unit_norm: float) -> None:
    """What `add_` hands over, from the noise itself."""
    noised = layout.real.flatten()
    parts = (noise.flatten(0, 1).square().sum(1), embeddings.flatten(0, 1).float().square().sum(1))
    meter.record(Squares(*(part * noised for part in parts)), layout, noised, unit_norm=unit_norm)


def recorded(*norms: float) -> Meter:
    """A meter that saw one document of four tokens per norm, in batches of one."""
    meter = Meter()
    for norm in norms:
        noise = torch.full((1, 4, 8), norm / 32**0.5)
        record(meter, noise, torch.full((1, 4, 8), 2.0), read_layout((1, 4), CPU), unit_norm=3**-0.5)
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
    record(meter, noise, embeddings, layout, unit_norm=1.0)
    realised = meter.realised()
    assert (realised.num_documents, realised.num_tokens) == (2, 4)
    assert (realised.alpha_min, realised.alpha_max) == pytest.approx((8**0.5, 24**0.5))
    assert realised.noise_to_embedding == pytest.approx(0.2)


def test_totals_since():
    meter = recorded(2.0)
    earlier = meter.totals()
    noise = torch.full((1, 4, 8), 4 / 32**0.5)
    record(meter, noise, torch.ones(1, 4, 8), read_layout((1, 4), CPU), unit_norm=1.0)
    recent = meter.totals().since(earlier)
    assert (recent.num_documents, recent.num_tokens) == (1, 4)
    assert recent.alpha_mean == pytest.approx(4.0)


def test_state_goes_on_to_the_bit():
    straight, first = recorded(2.0, 3.0, 5.0), recorded(2.0)
    resumed = Meter()
    resumed.restore(first.state())
    for norm in (3.0, 5.0):
        noise = torch.full((1, 4, 8), norm / 32**0.5)
        record(resumed, noise, torch.full((1, 4, 8), 2.0), read_layout((1, 4), CPU), unit_norm=3**-0.5)
        resumed.num_forwards += 1
    assert resumed.realised() == straight.realised()


def test_no_data_is_an_error():
    with pytest.raises(NoiseError, match="there is no realised noise to read: 0 training forwards, 0 documents"):
        Meter().realised()
    nothing = read_layout((1, 2), CPU, attention_mask=torch.zeros(1, 2))
    meter = Meter()
    record(meter, torch.zeros(1, 2, 4), torch.ones(1, 2, 4), nothing, unit_norm=1.0)
    with pytest.raises(NoiseError, match="0 documents noised"):
        meter.realised()


def test_a_documents_alpha_is_that_of_its_noised_tokens():
    meter, layout = Meter(), read_layout((1, 4), CPU)
    noised = torch.tensor([True, True, False, False])
    meter.record(Squares(torch.tensor([2.0, 2.0, 0, 0]), torch.tensor([8.0, 8.0, 0, 0])), layout, noised, unit_norm=1.0)
    realised = meter.realised()
    assert realised.alpha_mean == pytest.approx(8**0.5), "of four such tokens"
    assert (realised.num_documents, realised.num_tokens) == (1, 2)
    assert realised.noise_to_embedding == pytest.approx(0.5)
