"""Models that read images: the noise is the text's, and the places of images are no tokens."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import neftune
from neftune.errors import NoiseError
from neftune.noise.stacks import find_stacks
from tests.tiny_families import IMAGE, VISION, make, make_batch, without_dropout

ALPHA, EPOCHS = 5.0, 12
BEFORE, AFTER, TEXT = [5, 6, 7], [8, 9, 10, 11, 12], list(range(20, 29))


@pytest.fixture(params=VISION)
def family(request: pytest.FixtureRequest) -> str:
    """The name of one family."""
    return request.param


@pytest.fixture
def model(family: str) -> nn.Module:
    """Its model without dropout, in training mode."""
    return without_dropout(make(family))


def row_with_image(family: str) -> list[int]:
    return [*BEFORE, *[IMAGE] * VISION[family].num_places, *AFTER]


def batch_of(family: str, rows: list[list[int]]) -> dict[str, Tensor]:
    """The rows padded to one width, with the image that the first one speaks of, if it does."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if (ids == IMAGE).any():
        batch |= VISION[family].image()
    if VISION[family].types:
        batch[VISION[family].types] = (ids == IMAGE).long()
    return batch


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the table gives out, and what the first layer of the text model reads: by then images are in."""
    seen: dict[str, Tensor] = {}
    stack = find_stacks(model)[0]

    def keep_table(_module: nn.Module, _args: object, output: Tensor) -> None:
        seen.setdefault("table", output.detach().clone())

    def keep_merged(_module: nn.Module, _args: object, kwargs: dict[str, Tensor]) -> None:
        seen["merged"] = kwargs["inputs_embeds"].detach().clone()

    with contextlib.ExitStack() as exits:
        exits.callback(stack.embedding.register_forward_hook(keep_table).remove)
        inner = model.model.language_model
        exits.callback(inner.register_forward_pre_hook(keep_merged, with_kwargs=True).remove)
        yield seen


def seen_in(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    with watched(model) as seen:
        model(**batch)
    return seen


def test_text_is_noised_at_its_own_length_and_images_are_untouched(family, model):
    batch = batch_of(family, [row_with_image(family), TEXT])
    text = (batch["attention_mask"] != 0) & (batch["input_ids"] != IMAGE)
    image = batch["input_ids"] == IMAGE
    clean, squares = seen_in(model, batch), torch.zeros(2)
    with neftune.attach(model, ALPHA) as handle:
        for epoch in range(EPOCHS):
            handle.set_epoch(epoch)
            noisy = seen_in(model, batch)
            noise = noisy["table"] - clean["table"]
            assert not noise[~text].any()
            assert torch.equal(noisy["merged"][image], clean["merged"][image]), "features of the image"
            assert torch.equal(noisy["merged"][text], noisy["table"][text])
            bound = VISION[family].multiplier * ALPHA / (text.sum(1) * noise.shape[-1]).sqrt()
            assert (noise.abs().amax(dim=(1, 2)) <= bound * 1.001 + 1e-5).all()
            squares += noise.square().sum(dim=(1, 2)) / EPOCHS
        realised = handle.realised()
    expected = VISION[family].multiplier * ALPHA / 3**0.5
    assert squares.sqrt().tolist() == pytest.approx([expected] * 2, rel=0.05)
    assert realised.num_tokens == EPOCHS * (len(BEFORE) + len(AFTER) + len(TEXT))


def test_a_document_gets_the_same_noise_in_a_batch_and_alone(family, model):
    rows = [row_with_image(family), TEXT]
    with neftune.attach(model, ALPHA) as handle:
        handle.set_epoch(1)
        together = seen_in(model, batch_of(family, rows))["table"]
        for i, row in enumerate(rows):
            alone = seen_in(model, batch_of(family, [row]))["table"]
            assert torch.equal(alone[0], together[i, : len(row)])


def test_forward_backward_alpha_zero_and_eval(family, model):
    batch = batch_of(family, [row_with_image(family), TEXT])
    plain = model(**batch)[0]
    with neftune.attach(model, 0.0):
        assert torch.equal(model(**batch)[0], plain)
    with neftune.attach(model, ALPHA) as handle:
        model(**batch)[0].square().mean().backward()
        handle.detach()
        assert torch.equal(model(**batch)[0], plain)
    gradient = model.get_input_embeddings().weight.grad
    assert gradient.isfinite().all()
    assert gradient[TEXT].any()
    with neftune.attach(model.eval(), ALPHA) as handle:
        calm = model(**batch)[0]
        with handle.paused():
            assert torch.equal(model(**batch)[0], calm)


def test_embeddings_given_to_the_model_are_refused(family, model):
    batch = batch_of(family, [TEXT])
    with neftune.attach(model, ALPHA), pytest.raises(NoiseError, match="inputs_embeds was given instead"):
        model(inputs_embeds=model.get_input_embeddings().weight[batch.pop("input_ids")].detach(), **batch)


class TestPacked:
    """Documents with images packed into a row, told apart by positions in time, height and width."""

    model_name, grid = "qwen2.5-vl", [[0, 0, 1, 1], [0, 1, 0, 1]]

    def positions(self, *, with_text_row: bool) -> Tensor:
        """Of a row with an image, a text, and a document that begins with an image."""
        parts = [self.of_image(3, len(AFTER)), torch.arange(len(TEXT)).expand(3, -1), self.of_image(0, 2)]
        rows = torch.cat(parts, dim=1)
        if with_text_row:
            lengths = [part.shape[1] for part in parts]
            rows = torch.cat((torch.cat([torch.arange(length) for length in lengths])[None], rows))
        return rows[:, None]

    def of_image(self, before: int, after: int) -> Tensor:
        height, width = (torch.tensor(axis) + before for axis in self.grid)
        image = torch.stack((torch.full((4,), before), height, width))
        end = int(image.max()) + 1
        return torch.cat((torch.arange(before).expand(3, -1), image, torch.arange(end, end + after).expand(3, -1)), 1)

    @pytest.mark.parametrize("with_text_row", [False, True])
    def test_the_same_noise_as_alone(self, with_text_row):
        model = without_dropout(make(self.model_name))
        documents = [row_with_image(self.model_name), TEXT, [IMAGE] * 4 + [13, 14]]
        pixels = VISION[self.model_name].image()
        pixels = {"pixel_values": pixels["pixel_values"].repeat(2, 1), "image_grid_thw": torch.tensor([[1, 2, 2]] * 2)}
        packed = {"input_ids": torch.tensor([[token for document in documents for token in document]]), **pixels}
        with neftune.attach(model, ALPHA) as handle:
            handle.set_epoch(1)
            together = seen_in(model, {**packed, "position_ids": self.positions(with_text_row=with_text_row)})["table"]
            assert handle.realised().num_documents == 3
            alone = [seen_in(model, batch_of(self.model_name, [document]))["table"][0] for document in documents]
        assert torch.equal(together[0], torch.cat(alone))


def test_places_of_images_at_a_rows_end_are_no_padding():
    """Gemma puts the padding id into the places of images before it embeds."""
    family = "gemma3-vision-id-beyond-table"
    model = make(family)
    row = [*BEFORE, *[IMAGE] * VISION[family].num_places]
    batch = batch_of(family, [row])
    with neftune.attach(model, ALPHA) as handle:
        model(**{name: value for name, value in batch.items() if name != "attention_mask"})
        assert handle.realised().num_tokens == len(BEFORE)


def test_a_text_model_knows_no_places():
    model = make("llama")
    with neftune.attach(model, ALPHA) as handle:
        model(**make_batch((6,)) | {"input_ids": torch.full((1, 6), IMAGE)})
        assert handle.realised().num_tokens == 6
