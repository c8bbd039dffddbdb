"""DDP and FSDP2 on two ranks: every rank's rows get the noise that they have in one process."""

from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import neftune
from tests.parallel.ranks import (
    ALPHA,
    embedded,
    gathered,
    make_model,
    own_rows,
    refuses,
    require,
    rows,
    summed_loss,
    unsharded,
    unsharded_gradients,
)


def shard(model: nn.Module, *, by_module: bool = False, **options: object) -> nn.Module:
    if by_module:
        fully_shard(model.get_input_embeddings(), **options)
    for layer in model.model.layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    require(all(isinstance(p, DTensor) for p in model.parameters()), "every parameter is sharded")
    return model


def flat(model: nn.Module, original: bool) -> nn.Module:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=original)


WRAPPERS = {
    "DDP": DistributedDataParallel,
    "FSDP2": shard,
    "FSDP2, table on its own": partial(shard, by_module=True),
}


def attached(wrap, when: str) -> tuple[nn.Module, nn.Module, neftune.NoiseHandle]:
    """A wrapped model with noise at epoch 3, its embedding and its handle."""
    model = make_model()
    embedding = model.get_input_embeddings()
    if when == "before":
        handle = neftune.attach(model, ALPHA)
        wrapped = wrap(model)
    else:
        wrapped = wrap(model)
        handle = neftune.attach(wrapped, ALPHA)
    handle.set_epoch(3)
    return wrapped, embedding, handle


def own(whole: torch.Tensor) -> torch.Tensor:
    return whole[2 * dist.get_rank() : 2 * dist.get_rank() + 2]


def check_wrapper(name: str) -> None:
    expected, gradients = unsharded(), unsharded_gradients()
    for when in ("before", "after"):
        wrapped, embedding, handle = attached(WRAPPERS[name], when)
        noisy = embedded(wrapped, embedding, **own_rows())
        require(torch.equal(noisy, own(expected)), f"{name}, attached {when}: the noise of one process")
        summed_loss(wrapped, own_rows()).backward()
        found = dict(wrapped.named_parameters())
        for key, gradient in gradients.items():
            actual = found[f"module.{key}" if name == "DDP" else key].grad
            actual = actual.full_tensor() if isinstance(actual, DTensor) else actual
            require(torch.allclose(actual, gradient, atol=1e-5), f"{name}, attached {when}: gradient of {key}")
        require(handle.realised().num_documents == 4, "two passes over two documents")
        with torch.no_grad():
            clean = embedded(wrapped, embedding, **own_rows())
        handle.detach()
        require(torch.equal(embedded(wrapped, embedding, **own_rows()), clean), "clean once detached")


def ddp() -> None:
    check_wrapper("DDP")


def fsdp2() -> None:
    check_wrapper("FSDP2")
    check_wrapper("FSDP2, table on its own")


def fsdp2_in_bfloat16() -> None:
    expected = unsharded(dtype=torch.bfloat16)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for when in ("before", "after"):
        wrapped, embedding, _ = attached(lambda model: shard(model, mp_policy=policy), when)
        noisy = embedded(wrapped, embedding, **own_rows())
        require(noisy.dtype == torch.bfloat16 and torch.equal(noisy, own(expected)), f"bfloat16, attached {when}")


def fsdp1() -> None:
    # With use_orig_params=True a rank's embedding has no 2-D weight between forwards.
    for original in (True, False):
        for when in ("before", "after"):
            wrapped, embedding, _ = attached(lambda model, original=original: flat(model, original), when)
            noisy = embedded(wrapped, embedding, **own_rows())
            require(torch.equal(noisy, own(unsharded())), f"attached {when}, use_orig_params={original}")
    ratio = neftune.noise_to_signal(make_model(), ALPHA, length=10)
    wrapped = flat(make_model(), True)
    refuses(lambda: neftune.noise_to_signal(wrapped, ALPHA, length=10), "needs the whole embedding table, 2-D; got a")
    with FullyShardedDataParallel.summon_full_params(wrapped):
        require(neftune.noise_to_signal(wrapped, ALPHA, length=10) == ratio, "the ratio inside summon_full_params")


def equal_shapes_get_different_noise() -> None:
    for epoch in (None, 0):
        model = make_model()
        handle = neftune.attach(DistributedDataParallel(model), ALPHA)
        if epoch is not None:
            handle.set_epoch(epoch)
        torch.manual_seed(7)
        noisy = embedded(model, model.get_input_embeddings(), **own_rows())
        torch.manual_seed(7)
        swapped = embedded(model, model.get_input_embeddings(), **rows(*([2, 3] if dist.get_rank() == 0 else [0, 1])))
        with handle.paused():
            clean = embedded(model, model.get_input_embeddings(), **own_rows())
        first, second = gathered(noisy - clean)
        require(not (first[0] == second[0]).any(), "different documents, different noise")
        other = gathered(swapped)[1 - dist.get_rank()]
        require(torch.equal(noisy, other), "a document's noise does not depend on the rank that has it")


def ratio_of_a_sharded_table() -> None:
    whole, sharded = make_model(), shard(make_model())
    expected = neftune.noise_to_signal(whole, ALPHA, length=10)
    require(abs(neftune.noise_to_signal(sharded, ALPHA, length=10) / expected - 1) < 1e-9, "noise_to_signal")
    require(abs(neftune.alpha_for(sharded, nsr=expected, length=10) / ALPHA - 1) < 1e-9, "alpha_for")


CHECKS = (
    ddp,
    equal_shapes_get_different_noise,
    fsdp2,
    fsdp2_in_bfloat16,
    fsdp1,
    ratio_of_a_sharded_table,
)
