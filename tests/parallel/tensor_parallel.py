"""Tensor parallelism on two ranks: every layout of the embeddings that DTensor allows; and a pipeline of two stages."""

import itertools
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import LlamaForCausalLM
from transformers.distributed import DistributedConfig

import neftune
from tests.parallel.ranks import ALPHA, BATCH, embedded, gathered, make_model, refuses, require
from tests.tiny_families import VOCAB, WIDTH

STYLES = {"rows of the table": RowwiseParallel, "columns of the table": ColwiseParallel}
BATCHES = {width: {name: BATCH[name][:, :width] for name in ("input_ids", "attention_mask")} for width in (10, 11)}
"""Rows of 11 tokens, and of 10, which two ranks can divide evenly."""


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 8)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.table(input_ids))


def divided(style, output: Placement, *, local: bool) -> nn.Module:
    """A small model whose embedding is divided, and whose head takes what it gives."""
    plan = {
        "table": style(input_layouts=Replicate(), output_layouts=output, use_local_output=local),
        "head": ColwiseParallel(input_layouts=output, output_layouts=Replicate()),
    }
    return parallelize_module(Small(), init_device_mesh("cpu", (2,)), plan)


def expected(width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The noised embeddings, the outputs and the table's gradient of one process."""
    model = Small()
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(3)
        noisy = embedded(model, model.table, **BATCHES[width])
        outputs = model(**BATCHES[width])
        outputs.square().sum().backward()
    return noisy, outputs.detach(), model.table.weight.grad


def own(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def every_layout_of_the_embeddings() -> None:
    noisy, outputs, gradient = expected(10)
    layouts = itertools.product(STYLES.items(), (Replicate(), Shard(0), Shard(1), Shard(2)), (True, False))
    for (name, style), output, local in layouts:
        claim = f"{name}, {output}, local={local}"
        model = divided(style, output, local=local)
        require(isinstance(model.table.weight, DTensor), "the table is divided")
        with neftune.attach(model, ALPHA) as handle:
            handle.set_epoch(3)
            seen = embedded(model, model.table, **BATCHES[10])
            require(isinstance(seen, DTensor) != local, f"{claim}: what the embedding returns keeps its kind")
            slices = noisy.chunk(2, dim=output.dim) if isinstance(output, Shard) else (noisy, noisy)
            require(torch.equal(own(seen), slices[dist.get_rank()]), f"{claim}: the noise of one process")
            result = model(**BATCHES[10])
            require(torch.allclose(result, outputs, atol=1e-5), f"{claim}: outputs")
            result.square().sum().backward()
            gradients = model.table.weight.grad.full_tensor()
            require(torch.allclose(gradients, gradient, atol=1e-4), f"{claim}: gradient")
            realised = handle.realised()
        require(realised.num_forwards == 2, "two forwards")
        require(abs(realised.alpha_mean / ALPHA - 1) < 0.15, f"{claim}: realised alpha {realised.alpha_mean}")
        parts = {0: 2, 1: 2}.get(getattr(output, "dim", None), 1)
        tokens = torch.tensor(realised.num_tokens)
        if parts == 2:
            dist.all_reduce(tokens)
        require(int(tokens) == 2 * int(BATCHES[10]["attention_mask"].sum()), f"{claim}: every token is counted once")


def uneven_tokens() -> None:
    noisy, _, _ = expected(11)
    for local in (True, False):
        model = divided(RowwiseParallel, Shard(1), local=local)
        model.head = nn.Identity()
        with neftune.attach(model, ALPHA) as handle:
            handle.set_epoch(3)
            seen = own(embedded(model, model.table, **BATCHES[11]))
        require(torch.equal(seen, noisy[:, :6] if dist.get_rank() == 0 else noisy[:, 6:]), f"local={local}")


def attached_before_dividing() -> None:
    noisy, _, _ = expected(11)
    model = Small()
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(3)
        style = ColwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
        parallelize_module(model, init_device_mesh("cpu", (2,)), {"table": style})
        require(torch.equal(embedded(model, model.table, **BATCHES[11]), noisy), "columns, attached before")
    model = Small()
    with neftune.attach(model, ALPHA):
        style = RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
        parallelize_module(model, init_device_mesh("cpu", (2,)), {"table": style})
        refuses(lambda: model(**BATCHES[11]), "Attach after parallelize_module")


def partial_sums_are_refused() -> None:
    def divide(_name: str, table: nn.Module, mesh: DeviceMesh) -> None:
        table.weight = nn.Parameter(distribute_tensor(table.weight, mesh, [Shard(0)]))

    def replicate(_table: nn.Module, args: tuple[Tensor, ...], mesh: DeviceMesh) -> Tensor:
        return DTensor.from_local(args[0], mesh, [Replicate()], run_check=False)

    for local, words in ((False, "got the placement _MaskPartial. Attach after"), (True, "not Partial()")):
        model = Small()
        give = (lambda _table, output, _mesh: output.to_local()) if local else None
        distribute_module(model.table, init_device_mesh("cpu", (2,)), divide, replicate, give)
        model.head = nn.Identity()
        with neftune.attach(model, ALPHA):
            refuses(lambda model=model: model(**BATCHES[11]), words)


def draws_of_tensor_parallel_ranks_must_agree() -> None:
    noisy = []
    for seed in (dist.get_rank(), 0):
        model = divided(RowwiseParallel, Replicate(), local=True)
        torch.manual_seed(seed)
        with neftune.attach(model, ALPHA) as handle:
            if seed == dist.get_rank() == 1 or (dist.get_rank() == 0 and not noisy):
                refuses(lambda model=model: model(**BATCHES[11]), "must draw the same exposure, got ones from ")
                handle.set_epoch(0)
            noisy.append(embedded(model, model.table, **BATCHES[11]))
    one, other = gathered(noisy[-1])
    require(torch.equal(one, other), "seeded alike, both ranks add the same noise")


def transformers_own_plan() -> None:
    model = make_model()
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(3)
        noisy = embedded(model, model.get_input_embeddings(), **BATCH)
        loss = model(**BATCH).loss
    folder = sys.argv[1]
    if dist.get_rank() == 0:
        model.save_pretrained(folder)
    dist.barrier()
    divided = LlamaForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(tp_plan="auto")).train()
    require(isinstance(divided.get_input_embeddings().weight, DTensor), "the plan divides the table")
    with neftune.attach(divided, ALPHA) as handle:
        handle.set_epoch(3)
        seen = embedded(divided, divided.get_input_embeddings(), **BATCH)
        require(torch.equal(seen, noisy), "the noise of one process")
        require(torch.allclose(divided(**BATCH).loss, loss, atol=1e-5), "loss")


def pipeline() -> None:
    _, outputs, gradient = expected(11)
    rank, model = dist.get_rank(), Small()
    parts = nn.ModuleDict({"table": model.table}), nn.ModuleDict({"head": model.head})
    for part, name in zip(parts, ("table", "head"), strict=True):
        part.forward = lambda inputs, attention_mask, part=part, name=name: part[name](inputs)
    stage = PipelineStage(parts[rank], rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, 2, loss_fn=lambda output, _: output.square().sum(), scale_grads=False)
    mask = BATCHES[11]["attention_mask"]
    if rank == 0:
        with neftune.attach(parts[0], ALPHA, embeddings="table") as handle:
            handle.set_epoch(3)
            schedule.step(BATCHES[11]["input_ids"], attention_mask=mask)
        require(torch.allclose(model.table.weight.grad, gradient, atol=1e-4), "gradient of the first stage")
    else:
        refuses(lambda: neftune.attach(parts[1], ALPHA), "the noise needs a token embedding")
        result = schedule.step(target=torch.zeros(4), attention_mask=mask)
        require(torch.allclose(result, outputs, atol=1e-5), "outputs of the last stage")


CHECKS = (
    every_layout_of_the_embeddings,
    uneven_tokens,
    attached_before_dividing,
    partial_sums_are_refused,
    draws_of_tensor_parallel_ranks_must_agree,
    transformers_own_plan,
    pipeline,
)
