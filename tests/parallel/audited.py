"""The audit of a model on two ranks: each rank reads its own rows, and training stays as it was."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from transformers.integrations.neftune import activate_neftune

import neftune
from tests.parallel.ranks import ALPHA, make_model, own_rows, require, run, summed_loss
from tests.tiny_families import make_batch


def whole(model: nn.Module) -> nn.Module:
    return fully_shard(model)


def embedding_too(model: nn.Module) -> nn.Module:
    fully_shard(model.get_input_embeddings())
    return fully_shard(model)


WRAPPERS = {"DDP": DistributedDataParallel, "FSDP2": whole, "FSDP2, the embedding by itself": embedding_too}


def trained(wrap, *, watched: bool) -> tuple[list[torch.Tensor], neftune.Audit | None]:
    torch.manual_seed(1)
    model = wrap(make_model())
    with neftune.attach(model, ALPHA):
        audit = neftune.audit(model) if watched else None
        summed_loss(model, own_rows()).backward()
    gradients = [p.grad.to_local() if hasattr(p.grad, "to_local") else p.grad for p in model.parameters()]
    return gradients, audit


def ours_is_exact_and_training_the_same_bit_for_bit() -> None:
    for name, wrap in WRAPPERS.items():
        bare, _ = trained(wrap, watched=False)
        watched, audit = trained(wrap, watched=True)
        require(all(torch.equal(a, b) for a, b in zip(bare, watched, strict=True)), f"{name}: the same gradients")
        result = audit.result()
        require(result.is_exact, f"{name}: {result.verdict}")
        require(result.find().num_documents == 2, f"{name}: this rank's documents")


def transformers_hook_is_read() -> None:
    for name, wrap in WRAPPERS.items():
        model = make_model()
        activate_neftune(model, ALPHA)
        model = wrap(model)
        with neftune.audit(model) as audit:
            for _ in range(10):
                model(**own_rows())
        lengths = own_rows()["attention_mask"].sum(dim=1)
        expected = float((lengths / lengths.max()).sqrt().mean())
        require(abs(audit.result().find().mean - expected) < 0.03, f"{name}: {audit.result().verdict}")


def a_divided_table_is_unreadable_and_works_on() -> None:
    mesh, batch = init_device_mesh("cpu", (2,)), own_rows()
    for style in (RowwiseParallel, ColwiseParallel):
        plan = {"model.embed_tokens": style(input_layouts=Replicate(), output_layouts=Replicate())}
        model, ids = parallelize_module(make_model(), mesh, plan), batch["input_ids"]
        expected = [model(input_ids=one).logits for one in (ids, ids + 1)]
        with neftune.audit(model, ALPHA) as audit:
            seen = [model(input_ids=one).logits for one in (ids, ids + 1)]
        require(all(torch.equal(a, b) for a, b in zip(expected, seen, strict=True)), "the same outputs")
        said = "2 of 2 passes are unreadable (an audit needs the whole table, got one that is divided among ranks"
        require(said in audit.result().verdict, audit.result().verdict)


def parts_of_rows_are_unreadable() -> None:
    model, batch = make_model(), make_batch((16, 16))
    mine = slice(8 * dist.get_rank(), 8 * dist.get_rank() + 8)
    positions = torch.arange(16).expand(2, -1)
    with neftune.attach(model, ALPHA, sequence_group=dist.group.WORLD), neftune.audit(model) as audit:
        model(input_ids=batch["input_ids"][:, mine], position_ids=positions[:, mine])
    said = "a rank must know the whole document that its tokens belong to"
    require(dist.get_rank() == 0 or said in audit.result().verdict, audit.result().verdict)
    require(not audit.result().is_exact, "half a document is not taken for a whole one")


if __name__ == "__main__":
    run(
        parts_of_rows_are_unreadable,
        ours_is_exact_and_training_the_same_bit_for_bit,
        transformers_hook_is_read,
        a_divided_table_is_unreadable_and_works_on,
    )
