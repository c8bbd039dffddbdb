"""Two kinds of parallelism at once, on four ranks in a mesh of two by two."""

import itertools

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Placement, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import neftune
from tests.parallel.ranks import ALPHA, embedded, require, run
from tests.parallel.tensor_parallel import BATCHES, Small, expected, own

LAYOUTS = (Replicate(), Shard(1))


def divided(mesh: DeviceMesh, output: Placement, *, local: bool = True) -> Small:
    plan = {
        "table": RowwiseParallel(input_layouts=Replicate(), output_layouts=output, use_local_output=local),
        "head": ColwiseParallel(input_layouts=output, output_layouts=Replicate()),
    }
    return parallelize_module(Small(), mesh, plan)


def fsdp2_over_tensor_parallel() -> None:
    noisy, _, gradient = expected(10)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    data, tensor = mesh["data"].get_local_rank(), mesh["tensor"].get_local_rank()
    batch = {name: value.chunk(2)[data] for name, value in BATCHES[10].items()}
    for output, by_module, when in itertools.product(LAYOUTS, (True, False), ("before", "after")):
        claim = f"{output}, table sharded on its own: {by_module}, attached {when}"
        model = divided(mesh["tensor"], output)
        handle = neftune.attach(model, ALPHA) if when == "before" else None
        if by_module:
            fully_shard(model.table, mesh=mesh["data"])
        fully_shard(model, mesh=mesh["data"])
        handle = handle or neftune.attach(model, ALPHA)
        handle.set_epoch(3)
        mine = noisy.chunk(2)[data]
        mine = mine.chunk(2, dim=1)[tensor] if output == Shard(1) else mine
        require(torch.equal(own(embedded(model, model.table, **batch)), mine), claim)
        model(**batch).square().sum().backward()
        averaged = model.table.weight.grad.full_tensor()
        require(torch.allclose(2 * averaged, gradient, atol=1e-4), f"gradient: {claim}")


def context_over_tensor_parallel() -> None:
    noisy, _, _ = expected(10)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("context", "tensor"))
    context, tensor = mesh["context"].get_local_rank(), mesh["tensor"].get_local_rank()
    batch = {name: value.chunk(2, dim=1)[context] for name, value in BATCHES[10].items()}
    for output, local in itertools.product((*LAYOUTS, Shard(2)), (True, False)):
        model = divided(mesh["tensor"], output, local=local)
        model.head = nn.Identity()
        with neftune.attach(model, ALPHA, sequence_group=mesh["context"].get_group()) as handle:
            handle.set_epoch(3)
            seen = own(embedded(model, model.table, **batch))
        mine = noisy.chunk(2, dim=1)[context]
        mine = mine.chunk(2, dim=output.dim)[tensor] if isinstance(output, Shard) else mine
        require(torch.equal(seen, mine), f"{output}, local={local}")


if __name__ == "__main__":
    run(fsdp2_over_tensor_parallel, context_over_tensor_parallel)
