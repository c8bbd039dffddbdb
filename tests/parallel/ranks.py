"""What the scripts in this folder share: each runs under torchrun, on real ranks, and prints the checks that held."""

import datetime
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

import neftune
from neftune.errors import NoiseError
from tests.tiny_families import make, make_batch, without_dropout

ALPHA = 5.0
BATCH = make_batch((11, 5, 11, 8))
"""Four documents, padded: two ranks take two rows each, of one shape."""


def run(*checks: Callable[[], None]) -> None:
    """Run each check on every rank and print its name once all ranks have passed it."""
    # A rank that fails ends itself, torchrun ends the others; the timeout is for a rank that waits for one gone.
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    for check in checks:
        torch.manual_seed(0)
        check()
        dist.barrier()
        if dist.get_rank() == 0:
            sys.stdout.write(f"held: {check.__name__}\n")
            sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


def make_model(family: str = "llama") -> nn.Module:
    """A tiny model without dropout, the same on every rank."""
    return without_dropout(make(family))


def rows(*which: int) -> dict[str, Tensor]:
    """Some rows of the batch."""
    return {name: value[list(which)] for name, value in BATCH.items()}


def own_rows() -> dict[str, Tensor]:
    """This rank's half of the batch."""
    return rows(2 * dist.get_rank(), 2 * dist.get_rank() + 1)


def embedded(model: nn.Module, embedding: nn.Module, **batch: Tensor) -> Tensor:
    """What an embedding hands on to the rest of the model, noise included, in one forward pass."""
    seen: list[Tensor] = []
    hook = embedding.register_forward_hook(lambda _m, _a, output: seen.append(output.detach()))
    try:
        model(**batch)
    finally:
        hook.remove()
    return seen[-1]


def unsharded(family: str = "llama", *, epoch: int | None = 3, dtype: torch.dtype | None = None) -> Tensor:
    """The noised embeddings of the whole batch in one process."""
    model = make_model(family).to(dtype)
    with neftune.attach(model, ALPHA) as handle:
        if epoch is not None:
            handle.set_epoch(epoch)
        return embedded(model, model.get_input_embeddings(), **BATCH)


def summed_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy summed over all trained tokens."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def unsharded_gradients(num_ranks: int = 2) -> dict[str, Tensor]:
    """Gradients of the whole batch with noise in one process, as averaging over the ranks gives them."""
    model = make_model()
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(3)
        (summed_loss(model, BATCH) / num_ranks).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def gathered(tensor: Tensor) -> list[Tensor]:
    """Every rank's tensor of one shape."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return parts


def require(holds: bool, claim: str) -> None:
    """Fail on this rank unless a claim holds."""
    if not holds:
        raise AssertionError(f"rank {dist.get_rank()}: {claim}")


def refuses(act: Callable[[], object], words: str) -> None:
    """Fail on this rank unless an act raises a NoiseError that says these words."""
    try:
        act()
    except NoiseError as error:
        require(words in str(error), f"the message says {words!r}, got: {error}")
    else:
        require(False, f"refused with {words!r}")
