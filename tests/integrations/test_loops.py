"""The loops on the page about one's own loop run as they stand, and do what the page says of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

import neftune
from tests.integrations.test_trainer_phases import is_clean

PAGE = Path(__file__).parents[2] / "docs" / "loops.md"
NUM_DOCUMENTS, NUM_TOKENS, EPOCHS = 8, 110, 3


def forget_accelerator() -> None:
    """accelerate keeps the first accelerator's choices for the whole process."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    forget_accelerator()
    yield
    forget_accelerator()


def blocks() -> dict[str, str]:
    """Title of each section with code, and the code."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = {part.splitlines()[0]: re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL) for part in sections}
    return {title: "\n".join(code) for title, code in found.items() if code}


def run(*titles: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for title in titles:
        exec(blocks()[title], names)
    return names


def test_the_page_runs_from_top_to_bottom():
    assert list(blocks()) == ["A model and batches", "Plain torch", "accelerate"]
    names = run(*blocks())
    assert is_clean(names["model"])


def test_the_plain_loop_gives_each_document_its_noise_by_schedule(capsys):
    names = run("A model and batches", "Plain torch")
    handle = names["handle"]
    realised = handle.realised()
    assert (realised.num_documents, realised.num_tokens) == (NUM_DOCUMENTS * EPOCHS, NUM_TOKENS * EPOCHS)
    assert realised.alpha_max < 5.5
    # Six steps: 5, 5 * 5 / 6, ... and so a mean of 5 * 3.5 / 6.
    assert realised.alpha_mean == pytest.approx(5 * 3.5 / 6, rel=0.05)
    assert capsys.readouterr().out.splitlines()[-1] == str(realised)


def test_the_accelerate_loop_gives_each_document_its_noise():
    names = run("A model and batches", "Plain torch", "accelerate")
    realised = names["realised"]
    assert (realised.num_documents, realised.num_tokens) == (NUM_DOCUMENTS * EPOCHS, NUM_TOKENS * EPOCHS)
    assert realised.alpha_mean == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("first", ["attached", "prepared"])
def test_before_or_after_prepare_and_in_any_split_the_training_is_the_same(precision, first):
    names = run("A model and batches")

    def train(size: int, accumulation: int) -> list[torch.Tensor]:
        forget_accelerator()
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation, mixed_precision=precision)
        torch.manual_seed(0)
        model = names["LlamaForCausalLM"](names["config"]).train()
        handle = neftune.attach(model, 20) if first == "attached" else None
        model = accelerator.prepare(model)
        handle = neftune.attach(model, 20) if handle is None else handle
        optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))
        with handle:
            handle.set_epoch(0)
            for i in range(0, NUM_DOCUMENTS, size):
                with accelerator.accumulate(model):
                    # One token of the loss weighs the same however the batch is cut.
                    batch = names["collate"](names["documents"][i : i + size])
                    loss = model(**batch, num_items_in_batch=NUM_TOKENS).loss
                    accelerator.backward(loss * accumulation)
                    optimizer.step()
                    optimizer.zero_grad()
        assert handle.realised().num_documents == NUM_DOCUMENTS
        return [parameter.detach().clone() for parameter in model.parameters()]

    whole, cut = train(8, 1), train(2, 4)
    torch.testing.assert_close(
        cut, whole, rtol=1e-2 if precision == "bf16" else 1e-4, atol=1e-3 if precision == "bf16" else 1e-5
    )
