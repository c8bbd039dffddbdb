"""Context parallelism on two ranks: each holds a part of every row, and adds its part of the whole documents' noise."""

import itertools
from types import SimpleNamespace

import torch
import torch.distributed as dist
from accelerate.parallelism_config import ParallelismConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.distributed.tensor.experimental import context_parallel
from transformers import TrainerControl, TrainerState

import neftune
from neftune.errors import ConfigError
from tests.parallel.ranks import ALPHA, embedded, gathered, refuses, require
from tests.tiny_families import VOCAB, WIDTH, make_batch

T = 12


def order(shards: str, width: int = T) -> list[Tensor]:
    """Which tokens of a row each rank holds, in its order."""
    places = torch.arange(width)
    if shards == "contiguous":
        return list(places.chunk(2))
    first, second, third, last = places.chunk(4)
    return [torch.cat([first, last]), torch.cat([second, third])]


class Attention(nn.Module):
    """One layer of causal attention whose keys and values come from all ranks that share the rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.places = nn.Embedding(T, WIDTH)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        mine = torch.arange(input_ids.shape[1]) if places is None else places
        hidden = self.table(input_ids) + self.places(position_ids)
        keys, all_places = hidden, mine
        if places is not None:
            mesh = init_device_mesh("cpu", (2,))
            keys = DTensor.from_local(hidden, mesh, [Shard(1)]).full_tensor(grad_placements=[Partial()])
            all_places = torch.cat(gathered(mine))
        allowed = all_places <= mine[:, None]
        return self.head(nn.functional.scaled_dot_product_attention(hidden, keys, keys, attn_mask=allowed) + hidden)


def padded(side: str) -> dict[str, Tensor]:
    batch = make_batch((T, 7, 3, 10), side=side)
    counted = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return {**{name: batch[name] for name in ("input_ids", "attention_mask")}, "position_ids": counted}


def packed() -> dict[str, Tensor]:
    ids = make_batch((T, T))["input_ids"]
    positions = [[*range(5), *range(7)], [*range(2), *range(9), 0]]
    return {"input_ids": ids, "position_ids": torch.tensor(positions)}


def counted_from_the_row() -> dict[str, Tensor]:
    """Left-padded, with positions that count the padding, as trainers make them up."""
    batch = padded("left")
    return {**batch, "position_ids": torch.arange(T).expand(4, -1)}


BATCHES = {"right": padded("right"), "left": padded("left"), "packed": packed(), "arange": counted_from_the_row()}


def part(batch: dict[str, Tensor], shards: str) -> dict[str, Tensor]:
    mine = order(shards, batch["input_ids"].shape[1])[dist.get_rank()]
    return {name: value[:, mine] for name, value in batch.items()}


def attached(model: nn.Module, shards: str | None, **options: object) -> neftune.NoiseHandle:
    group = None if shards is None else dist.group.WORLD
    handle = neftune.attach(model, ALPHA, sequence_group=group, sequence_shards=shards, **options)
    handle.set_epoch(3)
    return handle


def one_process(batch: dict[str, Tensor], **options: object) -> tuple[Tensor, Tensor, Tensor]:
    model = Attention()
    with attached(model, None, **options):
        noisy = embedded(model, model.table, **batch)
        outputs = model(**batch)
        outputs.square().sum().backward()
    return noisy, outputs.detach(), model.table.weight.grad


def every_layout_in_either_order() -> None:
    for (name, batch), shards in itertools.product(BATCHES.items(), ("contiguous", "zigzag")):
        noisy, outputs, gradient = one_process(batch)
        model, mine = Attention(), order(shards)[dist.get_rank()]
        with attached(model, shards) as handle:
            seen = embedded(model, model.table, **part(batch, shards), places=mine)
            require(torch.equal(seen, noisy[:, mine]), f"{name}, {shards}: the noise of one process")
            result = model(**part(batch, shards), places=mine)
            require(torch.allclose(result, outputs[:, mine], atol=1e-5), f"{name}, {shards}: outputs")
            result.square().sum().backward()
            dist.all_reduce(model.table.weight.grad)
            require(torch.allclose(model.table.weight.grad, gradient, atol=1e-3), f"{name}, {shards}: gradient")
            realised = handle.realised()
        tokens = torch.tensor(realised.num_tokens)
        dist.all_reduce(tokens)
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        require(int(tokens) == 2 * int(real.sum()), f"{name}, {shards}: every token is counted once")
        require(abs(realised.alpha_mean / ALPHA - 1) < 0.2, f"{name}, {shards}: realised {realised.alpha_mean}")


def whole_rows_of_masks_and_keys_are_taken_as_they_are() -> None:
    batch = padded("right")
    keys = torch.arange(4) + 70
    model = Attention()
    with attached(model, None):
        noisy = embedded(model, model.table, **batch, document_keys=keys)
    mine = order("zigzag")[dist.get_rank()]
    with attached(model, "zigzag"):
        given = {**part(batch, "zigzag"), "attention_mask": batch["attention_mask"], "document_keys": keys}
        seen = embedded(model, model.table, **given, places=mine)
    require(torch.equal(seen, noisy[:, mine]), "a whole mask beside parts of ids")


def responses_alone() -> None:
    batch = {**padded("right")}
    batch["labels"] = batch["input_ids"].masked_fill(torch.arange(T) < 2, -100)
    noisy, _, _ = one_process(batch, positions="response")
    model, mine = Attention(), order("zigzag")[dist.get_rank()]
    with attached(model, "zigzag", positions="response"):
        seen = embedded(model, model.table, **part(batch, "zigzag"), places=mine)
    require(torch.equal(seen, noisy[:, mine]), "positions='response'")


def rows_that_zigzag_cannot_divide() -> None:
    # As torch's context_parallel, which then leaves them in their order.
    batch = {name: value[:, :10] for name, value in padded("right").items()}
    noisy, _, _ = one_process(batch)
    model, mine = Attention(), order("contiguous", 10)[dist.get_rank()]
    with attached(model, "zigzag"):
        seen = embedded(model, model.table, **{name: value[:, mine] for name, value in batch.items()}, places=mine)
    require(torch.equal(seen, noisy[:, mine]), "rows of ten tokens")


def parts_without_a_group_are_refused() -> None:
    batch = padded("right")
    model, mine = Attention(), order("contiguous")[dist.get_rank()]
    with attached(model, None):
        if dist.get_rank() == 1:
            words = "got rows in which documents begin at position 6. If ranks share each row"
            refuses(lambda: model(**part(batch, "contiguous")), words)
        else:
            model(**part(batch, "contiguous"))
    for actual, said in (("zigzag", "contiguous"), ("contiguous", "zigzag")):
        mine = order(actual)[dist.get_rank()]
        with attached(model, said):
            refuses(
                lambda actual=actual, mine=mine: model(**part(batch, actual), places=mine), "the right sequence_shards"
            )


def what_a_group_cannot_read_is_refused() -> None:
    model, mine = Attention(), order("zigzag")[dist.get_rank()]
    whole = padded("right")
    with attached(model, "zigzag"):
        given = {**part(whole, "zigzag"), "attention_mask": whole["attention_mask"][:, :5]}
        refuses(
            lambda: model(**given, places=mine),
            "of this rank's tokens, [4, 6], or of the whole rows, [4, 12]; got [4, 5]",
        )

    class Boundaries(Attention):
        def forward(self, input_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
            return super().forward(input_ids, position_ids)

    model = Boundaries()
    with attached(model, "contiguous"):
        batch = {name: value[:1] for name, value in part(whole, "contiguous").items() if name != "attention_mask"}
        refuses(lambda: model(**batch, cu_seqlens=torch.tensor([0, 6])), "got boundaries (cu_seq_lens_q)")
    for options, words in (
        ({"sequence_group": dist.group.WORLD, "sequence_shards": "striped"}, 'must be "contiguous" or "zigzag", got'),
        ({"sequence_group": "cp"}, "sequence_group must be a process group, got str"),
        ({"sequence_shards": "zigzag"}, "needs sequence_group, got none"),
    ):
        try:
            neftune.attach(Attention(), ALPHA, **options)
        except ConfigError as error:
            require(words in str(error), str(error))
        else:
            require(False, f"refused: {options}")


def draws_of_a_sequence_group_must_agree() -> None:
    batch, mine = part(padded("right"), "contiguous"), order("contiguous")[dist.get_rank()]
    model = Attention()
    torch.manual_seed(dist.get_rank())
    with neftune.attach(model, ALPHA, sequence_group=dist.group.WORLD):
        refuses(lambda: model(**batch, places=mine), "must draw the same exposure, got ones from ")
        torch.manual_seed(0)
        model(**batch, places=mine)


class WithoutAttention(Attention):
    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.head(self.table(input_ids) + self.places(position_ids))


def inside_torch_context_parallel() -> None:
    # Its ring attention has no kernel for CPUs, so this shows the order of its shards alone.
    batch = {"input_ids": padded("right")["input_ids"], "position_ids": torch.arange(T).repeat(4, 1)}
    model = WithoutAttention()
    with attached(model, None):
        outputs = model(**batch)
    mesh = init_device_mesh("cpu", (2,))
    for shards in ("zigzag", None):
        buffers = [value.clone() for value in batch.values()]
        with attached(model, shards), context_parallel(mesh, buffers=buffers, buffer_seq_dims=[1, 1]):
            given = dict(zip(batch, buffers, strict=True))
            if shards is None:
                refuses(lambda given=given: model(**given), "inside context_parallel each rank holds parts")
            else:
                result = model(**given)
                require(torch.equal(result, outputs[:, order("zigzag")[dist.get_rank()]]), "the noise of one process")


class StandIn:
    """A trainer as the callback sees one: accelerate lets no context parallelism run on CPUs."""

    def __init__(self, **sizes: int) -> None:
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("cp",))
        self.accelerator = SimpleNamespace(parallelism_config=ParallelismConfig(**sizes), torch_device_mesh=mesh)
        self.callback_handler = None

    def train(self, callback: neftune.NoiseCallback, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        callback.on_train_begin(SimpleNamespace(), TrainerState(epoch=3), TrainerControl(), model=model)
        return model(**batch)


def callback_finds_the_group_of_accelerate() -> None:
    batch = {"input_ids": padded("right")["input_ids"], "position_ids": torch.arange(T).repeat(4, 1)}
    model, callback = WithoutAttention(), neftune.NoiseCallback(ALPHA)
    with attached(model, None):
        outputs = model(**batch)
    result = StandIn(cp_size=2).train(callback, model, part(batch, "zigzag"))
    require(torch.equal(result, outputs[:, order("zigzag")[dist.get_rank()]]), "the noise of one process")
    refuses(lambda: StandIn(sp_size=2).train(callback, model, batch), "(sp_size=2) does not tell it")


CHECKS = (
    every_layout_in_either_order,
    whole_rows_of_masks_and_keys_are_taken_as_they_are,
    responses_alone,
    rows_that_zigzag_cannot_divide,
    parts_without_a_group_are_refused,
    what_a_group_cannot_read_is_refused,
    draws_of_a_sequence_group_must_agree,
    inside_torch_context_parallel,
    callback_finds_the_group_of_accelerate,
)
