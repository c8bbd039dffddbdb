"""Positions, schedules and noise stated as a ratio, on a model."""

import math

import pytest
import torch

import neftune
from neftune.errors import ConfigError, NoiseError, UnknownNameError
from neftune.noise.schedules import schedules
from neftune.noise.settings import NoiseSettings
from tests.noise.test_attach import noise_of
from tests.tiny_families import make, make_batch, without_dropout


def batch_with_prompt(prompt: int = 3) -> dict[str, torch.Tensor]:
    batch = make_batch((9, 4))
    batch["labels"][:, :prompt] = -100
    return batch


def test_prompt_and_response_share_the_noise_of_all():
    model, batch = without_dropout(make("llama")), batch_with_prompt()
    got = {}
    for positions in ("all", "prompt", "response"):
        with neftune.attach(model, 5.0, positions=positions) as handle:
            handle.set_epoch(0)
            got[positions] = noise_of(model, handle, **batch)["only"]
            realised = handle.realised()
            assert realised.num_tokens == {"all": 13, "prompt": 6, "response": 7}[positions]
            assert realised.alpha_mean == pytest.approx(5.0, rel=0.25), "of the tokens noised"
    response = (batch["labels"] != -100)[..., None]
    assert torch.equal(got["response"], got["all"] * response)
    assert torch.equal(got["prompt"], got["all"] * ~response)


def test_an_encoder_reads_the_prompt_and_a_decoder_the_response():
    model, batch = without_dropout(make("t5")), make_batch()
    for positions, noised in (("prompt", "encoder"), ("response", "decoder")):
        with neftune.attach(model, 5.0, positions=positions) as handle:
            noise = noise_of(model, handle, **batch)
        assert {name for name, part in noise.items() if part.any()} == {noised}


def test_positions_need_labels_of_the_tokens():
    model, batch = make("llama"), batch_with_prompt()
    labels = batch.pop("labels")
    with neftune.attach(model, positions="response"):
        with pytest.raises(NoiseError, match=r"positions='response' needs labels .* \[2, 9\] .* got none"):
            model(**batch)
        model(**batch, labels=labels)
    with pytest.raises(ConfigError, match='positions must be "all", "prompt" or "response", got \'answer\''):
        neftune.attach(model, positions="answer")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", (4.0, 4.0, 4.0)),
        ("linear", (4.0, 2.0, 0.0)),
        ("cosine", (4.0, 2.0, 0.0)),
        ("warmup", (0.0, 4.0, 4.0)),
        (lambda progress: progress**2, (0.0, 1.0, 4.0)),
    ],
)
def test_a_schedule_moves_alpha_and_the_noise_with_it(schedule, expected):
    model, batch = without_dropout(make("llama")), make_batch((9, 9))
    with neftune.attach(model, 4.0, schedule=schedule) as handle:
        for progress, alpha in zip((0.0, 0.5, 1.0), expected, strict=True):
            handle.set_progress(progress)
            handle.set_epoch(7)
            assert handle.alpha == pytest.approx(alpha)
            noise = noise_of(model, handle, **batch)["only"]
            assert noise.norm().item() == pytest.approx(alpha * 2**0.5 / 3**0.5, rel=0.1, abs=1e-9)


@pytest.mark.parametrize("name", schedules)
def test_every_schedule_is_a_factor_between_nothing_and_all(name):
    factors = [schedules[name](i / 20) for i in range(21)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert schedules[name].__doc__


class TestRefusals:
    """A schedule that cannot be followed is refused."""

    def test_without_progress(self):
        model = make("llama")
        with neftune.attach(model, schedule="linear"), pytest.raises(NoiseError, match=r"set_progress\(step / num_st"):
            model(**make_batch())

    def test_progress_out_of_range(self):
        handle = neftune.attach(make("llama"), schedule="linear")
        for progress in (-0.1, 1.1, math.nan):
            with pytest.raises(ConfigError, match="progress must be a share in"):
                handle.set_progress(progress)

    def test_unknown_schedule(self):
        with pytest.raises(UnknownNameError, match=r"schedule must be one of .*got 'linea'. Did you mean 'linear'"):
            neftune.attach(make("llama"), schedule="linea")

    @pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf, "1", None])
    def test_factor_that_is_none(self, factor):
        with pytest.raises(ConfigError, match="a schedule must give a finite factor >= 0, got"):
            NoiseSettings(5.0, schedule=lambda progress: factor)


def test_noise_may_be_stated_as_a_ratio():
    model = make("llama")
    handle = neftune.attach(model, nsr=0.4, length=9)
    assert handle.alpha == neftune.alpha_for(model, nsr=0.4, length=9)
    for _ in range(8):
        model(**make_batch((9, 9)))
    assert handle.realised().noise_to_embedding == pytest.approx(0.4, rel=0.05)
    handle.detach()
    with pytest.raises(ConfigError, match=r"nsr=0.4 needs the mean document length in tokens, got none"):
        neftune.attach(model, nsr=0.4)
    with pytest.raises(ConfigError, match=r"as alpha or as nsr, got alpha=3.0 and nsr=0.4. Give one"):
        neftune.attach(model, 3.0, nsr=0.4, length=9)
