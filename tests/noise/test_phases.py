import pytest
import torch
from torch.utils.checkpoint import checkpoint

from neftune.noise.phases import gradients_wanted, in_backward


def watched(seen: list[tuple[bool, bool]]):
    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append((gradients_wanted(), in_backward()))
        return x * x

    return function


@pytest.mark.parametrize("reentrant", [True, False])
def test_both_passes_of_a_checkpoint_count_as_training(reentrant):
    seen: list[tuple[bool, bool]] = []
    x = torch.ones(3, requires_grad=True)
    checkpoint(watched(seen), x, use_reentrant=reentrant).sum().backward()
    assert seen == [(True, False), (True, True)]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_under_no_grad_does_not(reentrant):
    seen: list[tuple[bool, bool]] = []
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        checkpoint(watched(seen), x, use_reentrant=reentrant)
    assert seen == [(False, False)]


def test_nested_reentrant_checkpoints():
    seen: list[tuple[bool, bool]] = []

    def outer(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(watched(seen), x, use_reentrant=True)

    checkpoint(outer, torch.ones(3, requires_grad=True), use_reentrant=True).sum().backward()
    assert all(wanted for wanted, _ in seen)
    assert len(seen) == 3


def test_plain_modes():
    assert gradients_wanted()
    assert not in_backward()
    with torch.no_grad():
        assert not gradients_wanted()
    with torch.inference_mode():
        assert not gradients_wanted()
