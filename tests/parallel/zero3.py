"""DeepSpeed's ZeRO-3 on two ranks: a rank holds no table between forwards, and adds the noise of one process."""

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from torch import nn

import neftune
from tests.parallel.ranks import (
    ALPHA,
    embedded,
    make_model,
    own_rows,
    refuses,
    require,
    run,
    summed_loss,
    unsharded,
    unsharded_gradients,
)


def partitioned(model: nn.Module) -> deepspeed.DeepSpeedEngine:
    settings = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "optimizer": {"type": "SGD", "params": {"lr": 1e-2}},
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=list(model.parameters()), config=settings)
    require(tuple(model.get_input_embeddings().weight.shape) == (0,), "the table is partitioned")
    return engine


def zero3() -> None:
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    expected, gradients = unsharded()[mine], unsharded_gradients()
    for when in ("before", "after"):
        model = make_model()
        handle = neftune.attach(model, ALPHA) if when == "before" else None
        engine = partitioned(model)
        handle = handle or neftune.attach(engine, ALPHA)
        handle.set_epoch(3)
        noisy = embedded(engine, model.get_input_embeddings(), **own_rows())
        require(torch.equal(noisy, expected), f"attached {when}: the noise of one process")
        engine.backward(summed_loss(engine, own_rows()))
        for name, parameter in model.named_parameters():
            gradient = safe_get_full_grad(parameter)
            require(torch.allclose(gradient, gradients[name], atol=1e-5), f"attached {when}: gradient of {name}")
        handle.detach()


def ratio_of_a_partitioned_table() -> None:
    model = make_model()
    ratio = neftune.noise_to_signal(model, ALPHA, length=10)
    engine = partitioned(model)
    refuses(lambda: neftune.noise_to_signal(engine, ALPHA, length=10), "needs the whole embedding table, 2-D; got a")
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        require(neftune.noise_to_signal(engine, ALPHA, length=10) == ratio, "the ratio of gathered parameters")


if __name__ == "__main__":
    run(zero3, ratio_of_a_partitioned_table)
