"""Which embeddings are found, and which a caller may name."""

import types

import pytest
import torch
from torch import nn

from neftune.errors import NoiseError
from neftune.noise.stacks import find_stacks
from neftune.noise.tables import is_table
from tests.tiny_families import make


class Pair(nn.Module):
    """Two tables, a layer and a function of ids: a model that is none of transformers'."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({"source": nn.Embedding(50, 8, padding_idx=0), "target": nn.Embedding(50, 8)})
        self.layer = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.layer(self.tables["source"](input_ids) + self.tables["target"](input_ids))


def test_a_name_a_module_and_several_of_them():
    model = Pair()
    source, target = model.tables["source"], model.tables["target"]
    assert [stack.embedding for stack in find_stacks(model, "tables.source")] == [source]
    assert [stack.embedding for stack in find_stacks(model, source)] == [source]
    both = find_stacks(model, ["tables.source", target, source])
    assert [stack.embedding for stack in both] == [source, target]
    assert len({stack.seed(3) for stack in both}) == 2, "each has its own stream"
    assert [(stack.pad_id, stack.pad_is_padding) for stack in both] == [(0, True), (None, False)]


def test_names_inside_a_wrapper_and_the_wrapper():
    model = Pair()
    wrapped = nn.DataParallel(model)
    for name in ("tables.source", "module.tables.source"):
        assert find_stacks(wrapped, name)[0].embedding is model.tables["source"]


def test_a_models_own_embedding_named_is_the_stack_it_was():
    model = make("t5")
    encoder, decoder = find_stacks(model)
    named = find_stacks(model, ["decoder.embed_tokens", "encoder.embed_tokens"])
    assert [stack.role for stack in named] == ["decoder", "encoder"]
    assert [stack.seed(0) for stack in named] == [decoder.seed(0), encoder.seed(0)]


def test_what_a_named_table_of_an_encoder_decoder_lies_in_tells_its_role():
    """A second table for the encoder, such as nothing gives: its documents are the source's."""
    model = make("t5")
    model.get_encoder().second, model.get_decoder().second = nn.Embedding(9, 4), nn.Embedding(9, 4)
    stacks = find_stacks(model, ["decoder.second", "encoder.second", "encoder.embed_tokens", "shared"])
    assert [stack.role for stack in stacks] == ["decoder", "encoder", "encoder", "only"]
    assert len({stack.seed(0) for stack in stacks}) == 4


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("tables.sauce", r"must name a module of Pair, got 'tables.sauce'\. Did you mean 'tables.source'\?"),
        ("zzz", r"got 'zzz'\. Pair holds tables.source, tables.target\."),
        ("", r"must name a module of Pair, got ''\."),
        ([], r"must name at least one token embedding, got none"),
        (nn.Embedding(3, 4), r"must be inside the model, got Embedding that Pair does not hold\. Pair holds tables"),
        ("layer", r"with a 2-D weight of one vector per token; got Linear with a weight of shape \[8, 8\]\. Pair ho"),
        ("norm", r"got LayerNorm with a weight of shape \[8\]"),
        ("tables", r"got ModuleDict with no weight"),
        ([7], r"must be modules of the model or their dotted names, got int"),
    ],
)
def test_what_cannot_be_named(named, message):
    with pytest.raises(NoiseError, match=message):
        find_stacks(Pair(), named)


def test_a_model_that_holds_no_table():
    with pytest.raises(NoiseError, match=r"Sequential holds no token embedding; perturb the embeddings yourself"):
        find_stacks(nn.Sequential(nn.Linear(2, 2)), "table")


def test_a_plain_module_without_a_name():
    with pytest.raises(NoiseError, match=r"Pair gives nothing\. Name the embedding \(embeddings=\), define"):
        find_stacks(Pair())


def test_partitioned_flattened_and_quantised_tables_are_tables():
    partitioned = nn.Embedding(9, 4)
    partitioned.weight = nn.Parameter(torch.empty(0))
    assert is_table(partitioned)
    custom = nn.Module()
    custom.weight = types.SimpleNamespace(shape=(0,), ds_shape=(9, 4))
    assert is_table(custom)
    custom.weight = types.SimpleNamespace(shape=(0,))
    assert not is_table(custom)
    assert not is_table(nn.Conv2d(3, 4, 2))


def test_an_image_models_patches_are_no_tokens():
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8)
    with pytest.raises(NoiseError, match=r"needs a token embedding.*ViTModel gives ViTPatchEmbeddings"):
        find_stacks(ViTModel(config))


def test_parts_that_hold_their_tables_and_do_not_give_them():
    from transformers import FSMTConfig, FSMTForConditionalGeneration

    ones = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")}
    model = FSMTForConditionalGeneration(
        FSMTConfig(langs=["en", "de"], src_vocab_size=9, tgt_vocab_size=9, d_model=8, **ones)
    )
    encoder, decoder = find_stacks(model)
    assert (encoder.role, decoder.role) == ("encoder", "decoder")
    assert decoder.embedding is model.model.decoder.embed_tokens


class Normed(nn.Embedding):
    """A table whose rows are normalised on their way out, as Inkling's are."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(super().forward(input), dim=-1)


class Scaled(nn.Embedding):
    """A table with a factor of its own."""

    def __init__(self, scale: float, told: float | None) -> None:
        super().__init__(50, 8)
        self.scale = scale
        if told is not None:
            self.embed_scale = told

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * self.scale


@pytest.mark.parametrize("table", [Normed(50, 8), Scaled(3.0, None), Scaled(3.0, 2.0)])
def test_a_table_that_gives_other_numbers_than_its_rows(table):
    with pytest.raises(NoiseError, match=r"rows times a known factor, got (Normed|Scaled), which gives other numbers"):
        find_stacks(nn.Sequential(table), "0")


def test_a_factor_that_the_table_tells():
    assert find_stacks(nn.Sequential(Scaled(3.0, 3.0)), "0")[0].multiplier == 3.0
