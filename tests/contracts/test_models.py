"""Every family in `tests.tiny_families` gets the noise of METHOD property 7; a new one joins by a line there."""

import contextlib
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

import neftune
from neftune.errors import NoiseError
from neftune.noise.stacks import find_stacks
from tests.tiny_families import DECODERS, ENCODER_DECODERS, REFUSED, VOCAB, make, make_batch, without_dropout

TEXT = {**DECODERS, **ENCODER_DECODERS}
ALPHA, EPOCHS = 5.0, 10
LENGTHS, TARGET_LENGTHS = (30, 8), (6, 20)


@pytest.fixture(params=TEXT)
def family(request: pytest.FixtureRequest) -> str:
    """The name of one family."""
    return request.param


@pytest.fixture
def model(family: str) -> nn.Module:
    """Its model without dropout, in training mode."""
    return without_dropout(make(family))


def ids_of(lengths: tuple[int, ...], *, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB - 5, (length,), generator=generator) for length in lengths]


def padded(documents: list[Tensor], *, value: int, side: str = "right") -> Tensor:
    return nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=value, padding_side=side)


def batch_of(family: str, which: tuple[int, ...] = (0, 1), *, side: str = "right") -> dict[str, Tensor]:
    """Some of two documents, padded: sources of 30 and 8 tokens, targets of 6 and 20."""
    sources = [ids_of(LENGTHS, seed=1)[i] for i in which]
    ids = padded(sources, value=0, side=side)
    batch = {"input_ids": ids, "attention_mask": padded([torch.ones_like(s) for s in sources], value=0, side=side)}
    if family in ENCODER_DECODERS:
        batch["labels"] = padded([ids_of(TARGET_LENGTHS, seed=2)[i] for i in which], value=-100)
    return batch


def objective(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    output = model(**batch)
    return output.loss if "labels" in batch else output[0].float().square().mean()


@contextlib.contextmanager
def watched(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """What each module gives out, call by call, after every hook that was there before."""
    seen: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}

    def keep(module: nn.Module, _args: object, output: Tensor) -> None:
        seen[module].append(output.detach().clone())

    with contextlib.ExitStack() as exits:
        for module in seen:
            exits.callback(module.register_forward_hook(keep).remove)
        yield seen


def embedded(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each stack of the model reads, by its role."""
    stacks = find_stacks(model)
    with watched(stack.embedding for stack in stacks) as seen:
        model(**batch)
    return {stack.role: seen[stack.embedding].pop(0) for stack in stacks}


def real_places(family: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    if family in ENCODER_DECODERS:
        return {"encoder": batch["attention_mask"] != 0, "decoder": batch["labels"] != -100}
    return {"only": batch["attention_mask"] != 0}


def test_every_document_gets_its_own_noise_and_padding_none(family, model):
    batch, multiplier = batch_of(family), TEXT[family].multiplier
    places, squares = real_places(family, batch), {}
    clean = embedded(model, batch)
    with neftune.attach(model, ALPHA) as handle:
        for epoch in range(EPOCHS):
            handle.set_epoch(epoch)
            for role, noisy in embedded(model, batch).items():
                noise = noisy - clean[role]
                assert not noise[~places[role]].any(), "padding"
                bound = multiplier * ALPHA / (places[role].sum(1) * noise.shape[-1]).sqrt()
                assert (noise.abs().amax(dim=(1, 2)) <= bound * 1.001 + 1e-5).all()
                squares[role] = squares.get(role, 0) + noise.square().sum(dim=(1, 2)) / EPOCHS
        realised = handle.realised()
    assert squares.keys() == places.keys()
    for square in squares.values():
        assert square.sqrt().tolist() == pytest.approx([multiplier * ALPHA / 3**0.5] * 2, rel=0.05)
    assert realised.alpha_mean == pytest.approx(ALPHA, rel=0.03)
    assert realised.num_documents == 2 * len(places) * EPOCHS
    assert realised.num_forwards == EPOCHS


def test_a_document_gets_the_same_noise_padded_alone_and_packed(family, model):
    batch = batch_of(family)
    places = real_places(family, batch)
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(3)
        together, left = embedded(model, batch), embedded(model, batch_of(family, side="left"))
        for row in (0, 1):
            alone = embedded(model, batch_of(family, (row,)))
            for role, vectors in alone.items():
                assert torch.equal(vectors[0], together[role][row][places[role][row]]), role
        role = "encoder" if family in ENCODER_DECODERS else "only"
        texts = together[role][places[role]]
        assert torch.equal(left[role][places[role].flip(1)], texts)
        if TEXT[family].positions and family in DECODERS:
            positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
            row = {"input_ids": batch["input_ids"][places[role]][None], "position_ids": positions}
            assert torch.equal(embedded(model, row)["only"][0], texts)
            assert handle.realised().num_documents == 8


def test_no_other_table_is_noised(family, model):
    batch = batch_of(family)
    stacks = [stack.embedding for stack in find_stacks(model)]
    others = [m for m in model.modules() if isinstance(m, nn.Embedding) and all(m is not s for s in stacks)]
    with neftune.attach(model, 50.0) as handle, watched(others) as noisy:
        model(**batch)
        with handle.paused(), watched(others) as clean:
            model(**batch)
    for module in others:
        assert all(map(torch.equal, noisy[module][: len(clean[module])], clean[module]))


def test_eval_and_no_grad_are_clean_and_alpha_zero_is_no_attachment(family, model):
    batch = batch_of(family)
    torch.manual_seed(0)
    plain = objective(model, batch)
    with neftune.attach(model, 0.0):
        torch.manual_seed(0)
        assert torch.equal(objective(model, batch), plain)
    with torch.no_grad():
        without_gradients = objective(model, batch)
    with neftune.attach(model, 50.0) as handle:
        with torch.no_grad():
            assert torch.equal(objective(model, batch), without_gradients)
        model.eval()
        calm = objective(model, batch)
        with handle.paused():
            assert torch.equal(objective(model, batch), calm)
        with pytest.raises(NoiseError, match="0 documents noised"):
            handle.realised()
        assert not torch.equal(objective(model.train(), batch), plain)


def test_gradients_reach_the_table_and_detaching_leaves_no_trace(family, model):
    batch = batch_of(family)
    before, names = hooks_of(model), list(model.state_dict())
    with neftune.attach(model, ALPHA):
        objective(model, batch).backward()
        assert list(model.state_dict()) == names
    assert hooks_of(model) == before
    for stack in find_stacks(model):
        gradient = stack.embedding.weight.grad
        assert gradient is not None, stack.role
        assert gradient.isfinite().all(), stack.role
        assert gradient.any(), stack.role


def hooks_of(model: nn.Module) -> dict[str, dict[object, object]]:
    """Every hook that is on any module."""
    return {
        f"{name}.{key}": dict(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if "hook" in key and isinstance(value, dict)
    }


def test_token_types_looked_up_in_the_same_table_are_not_text():
    model, batch = without_dropout(make("gpt2")), batch_of("gpt2")
    with neftune.attach(model, ALPHA) as handle, watched([model.get_input_embeddings()]) as seen:
        handle.set_epoch(0)
        model(**batch, token_type_ids=torch.ones_like(batch["input_ids"]))
        assert handle.realised().num_tokens == sum(LENGTHS)
    text, types = seen[model.get_input_embeddings()]
    assert not torch.equal(text, model.get_input_embeddings()(batch["input_ids"]))
    assert torch.equal(types, model.get_input_embeddings().weight[1].expand_as(types))


def test_padding_that_a_model_adds_is_no_text():
    """LED fills its input up to a multiple of the attention window, through the same table."""
    model, batch = without_dropout(make("led")), batch_of("led")
    with neftune.attach(model, ALPHA) as handle, watched([model.get_encoder().embed_tokens]) as seen:
        model(**batch)
        assert handle.realised().num_tokens == sum(LENGTHS) + sum(TARGET_LENGTHS)
    _text, filling = seen[model.get_encoder().embed_tokens]
    assert filling.shape[1] == 2
    assert torch.equal(filling, model.get_encoder().embed_tokens.weight[0].expand_as(filling))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_noised_is_refused_and_says_why(name):
    refused, message = REFUSED[name]
    model = refused.build().train()

    def train() -> None:
        with neftune.attach(model, ALPHA):
            model(**make_batch())

    with pytest.raises(NoiseError, match=message):
        train()


@pytest.mark.parametrize("length", [9, 2])
def test_a_batch_that_the_model_turns_is_refused_whatever_its_shape(length):
    batch = make_batch((length, length))
    model = REFUSED["xlnet"][0].build().train()
    with neftune.attach(model, ALPHA), pytest.raises(NoiseError, match="turned or padded by the model"):
        model(input_ids=batch["input_ids"])


def test_longformer_with_rows_as_wide_as_it_makes_them():
    model = REFUSED["longformer"][0].build().train()
    with neftune.attach(model, ALPHA) as handle:
        model(**make_batch((8, 5)))
        assert handle.realised().num_tokens == 13
