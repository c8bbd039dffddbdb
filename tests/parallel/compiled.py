"""torch.compile over each kind of parallelism, on two ranks."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
from torch.nn.parallel import DistributedDataParallel

import neftune
from tests.parallel import context_parallel, tensor_parallel
from tests.parallel.data_parallel import shard
from tests.parallel.ranks import ALPHA, make_model, own_rows, require, summed_loss, unsharded_gradients


def compiled(model: nn.Module, *, fullgraph: bool = True) -> nn.Module:
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=fullgraph)


def compiled_data_parallel() -> None:
    expected = unsharded_gradients()
    for wrap in (DistributedDataParallel, shard):
        model = make_model()
        wrapped = wrap(model)
        with neftune.attach(wrapped, ALPHA) as handle:
            handle.set_epoch(3)
            summed_loss(compiled(wrapped, fullgraph=False), own_rows()).backward()
            require(handle.realised().num_documents == 2, "both documents are counted")
        for name, parameter in model.named_parameters():
            gradient = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
            require(torch.allclose(gradient, expected[name], atol=1e-5), f"{wrap.__name__}: gradient of {name}")


def compiled_tensor_parallel() -> None:
    noisy, _, _ = tensor_parallel.expected(10)
    for style, output, local in (
        (RowwiseParallel, Replicate(), True),
        (RowwiseParallel, Shard(1), False),
        (RowwiseParallel, Shard(1), True),
        (ColwiseParallel, Shard(2), True),
    ):
        model = tensor_parallel.divided(style, output, local=local)
        model.head = nn.Identity()
        with neftune.attach(model, ALPHA) as handle:
            handle.set_epoch(3)
            seen = tensor_parallel.own(compiled(model)(**tensor_parallel.BATCHES[10]))
        mine = noisy.chunk(2, dim=output.dim)[dist.get_rank()] if isinstance(output, Shard) else noisy
        require(torch.equal(seen, mine), f"{style.__name__}, {output}, local={local}")


def compiled_context_parallel() -> None:
    batch = context_parallel.padded("right")
    batch = {"input_ids": batch["input_ids"], "position_ids": torch.arange(context_parallel.T).expand(4, -1)}
    model = context_parallel.WithoutAttention()
    with context_parallel.attached(model, None):
        expected = model(**batch)
    with context_parallel.attached(model, "zigzag"):
        result = compiled(model)(**context_parallel.part(batch, "zigzag"))
    mine = context_parallel.order("zigzag")[dist.get_rank()]
    require(torch.allclose(result, expected[:, mine], atol=1e-5), "the noise of one process")


CHECKS = (
    compiled_data_parallel,
    compiled_tensor_parallel,
    compiled_context_parallel,
)
