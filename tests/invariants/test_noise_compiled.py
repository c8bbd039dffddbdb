"""METHOD property 9: under torch.compile no graph break, no recompilation from step to step, new noise at each."""

import pytest
import torch
import torch._dynamo.testing
from torch import nn

import neftune
from tests.tiny_families import make, make_batch, without_dropout

pytestmark = pytest.mark.slow

LENGTHS = [(9, 4), (30, 8), (12, 12, 3), (17, 5)]


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch.compiler.reset()


def compiled(model: nn.Module) -> tuple[nn.Module, torch._dynamo.testing.CompileCounterWithBackend]:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    return torch.compile(model, fullgraph=True, dynamic=True, backend=counter), counter


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", "gemma", "bart"])
def test_loss_gradients_and_meter_equal_those_without_compiling(family):
    model = without_dropout(make(family))
    run, counter = compiled(model)
    with neftune.attach(model, 5.0) as handle:
        num_graphs = []
        for lengths in LENGTHS:
            batch, seen = make_batch(lengths), []
            for call in (run, model):
                torch.manual_seed(5)
                loss = call(**batch).loss
                seen.append((loss.detach(), gradients(model, loss)))
            num_graphs.append(counter.frame_count)
            assert torch.equal(seen[0][0], seen[1][0])
            for name, gradient in seen[0][1].items():
                assert torch.allclose(gradient, seen[1][1][name], atol=1e-5), name
        realised = handle.realised()
    assert len(set(num_graphs)) == 1, "one compilation serves every shape"
    num_stacks = 2 if model.config.is_encoder_decoder else 1
    assert realised.num_documents == 2 * num_stacks * sum(map(len, LENGTHS))
    assert realised.num_forwards == 2 * len(LENGTHS)


def test_every_step_draws_new_noise_and_no_setting_compiles_again():
    model, batch = without_dropout(make("llama")), make_batch()
    run, counter = compiled(model)
    with neftune.attach(model, 50.0, schedule="linear") as handle:
        handle.set_progress(0.0)
        losses = [run(**batch).loss.item() for _ in range(4)]
        num_graphs = counter.frame_count
        assert len(set(losses)) == 4
        for epoch in range(3):
            handle.set_epoch(epoch)
            handle.set_progress(epoch / 4)
            assert run(**batch).loss.item() == model(**batch).loss.item()
        assert counter.frame_count == num_graphs


def test_phases_and_detaching_hold_for_what_is_compiled():
    model, batch = without_dropout(make("llama")), make_batch()
    clean = model(**batch).loss.item()
    run, _ = compiled(model)
    assert run(**batch).loss.item() == clean
    handle = neftune.attach(run, 50.0)
    assert run(**batch).loss.item() != clean, "compiled before the noise came"
    with handle.paused():
        assert run(**batch).loss.item() == clean
    with torch.no_grad():
        assert run(**batch).loss.item() == clean
    model.eval()
    assert run(**batch).loss.item() == clean
    model.train()
    assert run(**batch).loss.item() != clean
    handle.detach()
    assert run(**batch).loss.item() == clean


def test_two_forwards_in_one_graph_have_noise_of_their_own():
    model, batch = without_dropout(make("llama")), make_batch()

    def twice(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return model(**batch).loss, model(**batch).loss

    with neftune.attach(model, 50.0):
        first, second = torch.compile(twice, fullgraph=True, backend="aot_eager")(batch)
    assert first.item() != second.item()


def test_noise_that_does_not_reach_the_embedding_is_an_error_here_too():
    model, batch = make("llama"), make_batch()
    run, _ = compiled(model)
    with neftune.attach(model), pytest.raises(torch._dynamo.exc.Unsupported, match="the noise must reach Llama"):
        run(inputs_embeds=torch.randn(2, 9, 32), attention_mask=batch["attention_mask"], labels=batch["labels"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_gives_the_same_noise():
    model, batch = without_dropout(make("llama")), make_batch()
    run = torch.compile(model, fullgraph=True)
    with neftune.attach(model, 50.0) as handle:
        handle.set_epoch(3)
        got = run(**batch).loss
        assert got.item() == pytest.approx(model(**batch).loss.item(), abs=1e-5)
        assert gradients(model, got)
