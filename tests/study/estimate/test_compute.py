"""Operations against torch's own counter, activations against what autograd really saves, time on slots by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neftune.config import DataConfig, ModelConfig
from neftune.records import PlannedRun
from neftune.study.estimate.activations import activations, korthikanti_bytes
from neftune.study.estimate.compute import forward_flops, train_flops
from neftune.study.estimate.schedule import wall_clock
from neftune.study.estimate.shapes import model_shape
from neftune.study.estimate.tokens import padded
from tests.study.estimate.test_shapes import FAMILIES, saved

DATA = DataConfig()
ROWS, LENGTH = 3, 24


def counted(model: Any, *, backward: bool) -> int:
    model.train()
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "opt", "qwen2", "falcon"])
def test_operations_are_torchs_own_count(name: str, tmp_path: Path):
    model, config = saved(FAMILIES[name], tmp_path)
    model.set_attn_implementation("eager")
    shape = model_shape(config, DATA)
    tokens = ROWS * LENGTH
    assert forward_flops(shape, LENGTH) * tokens == pytest.approx(counted(model, backward=False), rel=0.01)
    expected = train_flops(shape, LENGTH, checkpointing=False) * tokens
    assert expected == pytest.approx(counted(model, backward=True), rel=0.03)


def test_frozen_weights_cost_four_in_place_of_six(tmp_path: Path):
    model, config = saved(FAMILIES["llama"], tmp_path)
    model.set_attn_implementation("eager")
    full = model_shape(config, DATA)
    lora = model_shape(config.model_copy(update={"adapter": "lora"}), DATA)
    model.requires_grad_(False)
    model.enable_input_require_grads()
    expected = (train_flops(lora, LENGTH, checkpointing=False) - 6 * lora.adapters) * ROWS * LENGTH
    assert expected == pytest.approx(counted(model, backward=True), rel=0.05)
    assert train_flops(full, 1, checkpointing=True) / train_flops(full, 1, checkpointing=False) == pytest.approx(
        4 / 3, rel=0.1
    )


def really_saved(model: Any) -> int:
    """Bytes of distinct storages that autograd saves on the CPU, weights apart."""
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = model.base_model(input_ids=ids, use_cache=False)
    assert made is not None
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "qwen2", "gemma2"])
def test_activations_are_what_autograd_saves(name: str, tmp_path: Path):
    model, config = saved(FAMILIES[name], tmp_path)
    model.train()
    for module in model.modules():  # torch's fused attention takes no dropout on the CPU
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            module.attention_dropout = 0.0
    traced = activations(config, DATA, rows=ROWS, length=LENGTH)
    assert traced.kept == pytest.approx(really_saved(model), rel=0.12)


def test_checkpointing_keeps_every_blocks_input_and_one_block(tmp_path: Path):
    _, config = saved(FAMILIES["gpt2"], tmp_path)
    traced = activations(config, DATA, rows=ROWS, length=LENGTH)
    assert traced.inputs == 2 * ROWS * LENGTH * 32 * 4
    assert traced.kept == pytest.approx(2 * traced.block + traced.outside, abs=2)
    assert traced.checkpointed == traced.inputs + traced.block + traced.outside < traced.kept


def test_the_published_formula_for_a_gpt(tmp_path: Path):
    from transformers import GPT2Config

    GPT2Config(n_layer=4, n_embd=256, n_head=4, vocab_size=97).save_pretrained(tmp_path)
    traced = activations(ModelConfig(path=str(tmp_path), dtype="bfloat16"), DATA, rows=4, length=256)
    formula = korthikanti_bytes(rows=4, length=256, width=256, layers=4, heads=4, attention=False)
    # transformers' GELU is made of several operations, which keep more than the paper's fused one
    assert 1.0 < traced.block * 4 / formula < 2.2
    whole = korthikanti_bytes(rows=1, length=2048, width=12288, layers=96, heads=96)
    assert whole == 96 * 2048 * 12288 * (34 + 5 * 96 * 2048 // 12288)


def test_padding_is_the_expectation_over_random_batches():
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.integers(5, 200, size=60))
    tokens, seen = padded(lengths, 8)
    drawn = np.array([rng.choice(lengths, 8, replace=False).max() for _ in range(40_000)])
    assert tokens == pytest.approx(60 * drawn.mean(), rel=0.005)
    assert seen == pytest.approx((drawn**2.0).mean() / drawn.mean(), rel=0.005)
    assert padded(lengths, 1)[0] == pytest.approx(lengths.sum())
    assert padded(lengths, 60) == pytest.approx((60 * lengths.max(), lengths.max()))


def planned(name: str, after: str | None = None) -> PlannedRun:
    return PlannedRun(run_id=name, arm="", block="", seed=0, config={}, after=after)


def test_runs_on_slots():
    runs = [planned("a"), planned("b"), planned("c"), planned("d", after="a")]
    seconds = {"a": 5.0, "b": 1.0, "c": 1.0, "d": 2.0}
    assert wall_clock(runs, seconds, slots=1) == 9
    assert wall_clock(runs, seconds, slots=2) == 7  # b and c beside a, then d
    assert wall_clock(runs, seconds, slots=8) == 7  # the chain a, d
    assert wall_clock([planned("d", after="done before")], seconds, slots=1) == 2
    assert wall_clock([], {}, slots=3) == 0
