import pytest
import torch

from neftune.config import TrainConfig
from neftune.errors import ConfigError
from neftune.training import ranks
from neftune.training.collator import BLANK, IGNORED, Collator
from neftune.training.finetune import finetune
from neftune.training.randomness import stream_seed
from neftune.training.ranks import dropout_seed, from_every, from_first, num_ranks, require_ranks
from neftune.training.shares import EvenOrder
from neftune.training.trainer import micro_batch_size
from tests.tiny_training import tiny_documents, tiny_llama, tiny_settings, tiny_tokenizer


def test_order_is_the_trainers_own_with_blanks_at_the_end(tmp_path):
    documents, model, seen = tiny_documents(21), tiny_llama(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(row[row != 0].tolist() for row in kwargs["input_ids"]),
        with_kwargs=True,
    )
    finetune(model, tiny_tokenizer(), documents, settings=tiny_settings(tmp_path, seed=3, epochs=2))
    order = EvenOrder(21, data_seed=stream_seed(3, "data order"), round_size=8)
    assert len(order) == 24
    taken = []
    for epoch in (0, 1):
        order.set_epoch(epoch)
        indices = [order[position]["index"] for position in range(len(order))]
        assert indices[21:] == [BLANK] * 3
        taken += [list(documents[index].input_ids) for index in indices[:21]]
    assert taken == seen


def test_an_epoch_can_be_taken_up_again():
    order = EvenOrder(5, data_seed=1, round_size=4)
    first = [row["index"] for row in order]
    order.set_epoch(2)
    order.set_epoch(0)
    assert [row["index"] for row in order] == first


def test_blanks_are_left_out_and_a_batch_of_them_trains_nothing():
    documents = tiny_documents(2)
    collate = Collator(documents, pad_token_id=0)
    mixed = collate([{"index": 1}, {"index": BLANK}])
    assert mixed["input_ids"].tolist() == [list(documents[1].input_ids)]
    blank = collate([{"index": BLANK}, {"index": BLANK}])
    assert {name: value.tolist() for name, value in blank.items()} == {
        "input_ids": [[0]],
        "attention_mask": [[1]],
        "labels": [[IGNORED]],
    }


@pytest.mark.parametrize(
    ("batch", "world", "asked", "micro"),
    [(128, 1, None, 16), (128, 2, None, 16), (24, 2, None, 12), (34, 2, None, 1), (8, 2, 4, 4), (8, 8, None, 1)],
)
def test_micro_batches_divide_a_ranks_share(batch, world, asked, micro):
    train = TrainConfig(batch_size=batch, world_size=world, micro_batch_size=asked)
    assert micro_batch_size(train) == micro
    assert batch % (world * micro) == 0


@pytest.mark.parametrize(
    ("batch", "world", "asked", "words"),
    [
        (6, 1, 4, r"train.world_size x train.micro_batch_size, 1 x 4, got 6. Set --train.micro_batch_size 2"),
        (9, 2, None, r"a multiple of train.world_size 2, got 9. Set --train.batch_size 10"),
        (12, 2, 4, r"2 x 4, got 12. Set --train.micro_batch_size 2"),
        (9, 2, 4, r"2 x 4, got 9. Set --train.batch_size 16"),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_refused(batch, world, asked, words):
    with pytest.raises(ConfigError, match=words):
        micro_batch_size(TrainConfig(batch_size=batch, world_size=world, micro_batch_size=asked))


def test_the_number_of_ranks_is_the_one_asked_for(tmp_path):
    require_ranks(2, num_devices=1, num_processes=2)
    require_ranks(1, num_devices=0, num_processes=1)
    with pytest.raises(ConfigError, match="must train on 3 ranks, got 2 processes"):
        require_ranks(3, num_devices=1, num_processes=2)
    with pytest.raises(ConfigError, match=r"one device in one process.*got 1 visible GPUs and 2 processes"):
        require_ranks(1, num_devices=1, num_processes=2)
    settings = tiny_settings(tmp_path, world_size=2)
    with pytest.raises(ConfigError, match=r"must train on 2 ranks, got 1 process. Start it with `neftune study`"):
        finetune(tiny_llama(), tiny_tokenizer(), tiny_documents(), settings=settings)


def test_alone_a_process_is_the_first_and_only_rank():
    assert num_ranks() == 1
    assert from_first(lambda: {"a": float("inf")}) == {"a": float("inf")}
    assert from_every([1, 2]) == [[1, 2]]
    assert not torch.distributed.is_initialized()


def test_the_first_rank_has_the_dropout_of_one_process_and_every_other_its_own(monkeypatch):
    assert dropout_seed(5) == stream_seed(5, "dropout")
    seeds = []
    for number in range(4):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        seeds.append(dropout_seed(5))
    assert seeds[0] == stream_seed(5, "dropout")
    assert len(set(seeds)) == 4
