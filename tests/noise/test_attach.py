import contextlib
import copy
import io
import pickle

import pytest
import torch
from torch import nn

import neftune
from neftune.errors import ConfigError, NoiseError, UnknownNameError
from tests.tiny_families import TYPICAL, VOCAB, WIDTH, make, make_batch, without_dropout


def embeddings_of(model: nn.Module) -> dict[str, nn.Module]:
    if not model.config.is_encoder_decoder:
        return {"only": model.get_input_embeddings()}
    return {"encoder": model.get_encoder().embed_tokens, "decoder": model.get_decoder().embed_tokens}


def embedded(model: nn.Module, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each stack's embedding gives to the rest of the model in one forward pass."""
    seen: dict[str, torch.Tensor] = {}
    with contextlib.ExitStack() as exits:
        for name, module in embeddings_of(model).items():
            hook = module.register_forward_hook(lambda _m, _a, output, name=name: seen.update({name: output.detach()}))
            exits.callback(hook.remove)
        model(**batch)
    return seen


def noise_of(model: nn.Module, handle: neftune.NoiseHandle, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
    noisy = embedded(model, **batch)
    with handle.paused():
        clean = embedded(model, **batch)
    return {name: noisy[name] - clean[name] for name in noisy}


def skeleton(model: nn.Module) -> dict[str, object]:
    """Everything a module keeps of its own, hooks included."""
    kept = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            kept[f"{name}.{key}"] = dict(value) if isinstance(value, dict) else value
    return kept


@pytest.mark.parametrize("family", TYPICAL)
def test_every_stack_of_every_family_gets_the_papers_norm_per_document(family):
    model = without_dropout(make(family))
    batch = make_batch((30, 8))
    with neftune.attach(model, 5.0) as handle:
        sums = {}
        for epoch in range(12):
            handle.set_epoch(epoch)
            for name, noise in noise_of(model, handle, **batch).items():
                sums[name] = sums.get(name, 0) + noise.square().sum(dim=(1, 2))
                assert not noise[batch["attention_mask"] == 0].any(), "padding"
        multiplier = {"gemma": WIDTH**0.5, "bart": WIDTH**0.5}.get(family, 1.0)
        assert len(sums) == (2 if model.config.is_encoder_decoder else 1)
        for total in sums.values():
            expected = [5.0 / 3**0.5 * multiplier] * 2
            assert (total / 12).sqrt().tolist() == pytest.approx(expected, rel=0.04)
        realised = handle.realised()
    assert realised.alpha_mean == pytest.approx(5.0, rel=0.04)
    assert realised.num_documents == 2 * 12 * len(sums)
    assert realised.num_forwards == 12


@pytest.mark.parametrize("family", TYPICAL)
def test_detaching_leaves_the_model_as_it_was(family):
    model = make(family)
    before, names = skeleton(model), list(model.state_dict())
    handle = neftune.attach(model)
    model(**make_batch()).loss.backward()
    model.zero_grad()
    assert list(model.state_dict()) == names
    handle.detach()
    handle.detach()
    after = skeleton(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        if not isinstance(value, torch.Tensor):
            assert after[key] == value or key.endswith("_parameters"), key
    neftune.attach(model).detach()


def test_detaching_after_an_exception_in_forward_and_in_the_block():
    model = make("llama")
    before = skeleton(model)
    wrong = torch.tensor([[VOCAB + 5]])

    def work() -> None:
        with neftune.attach(model) as handle:
            with pytest.raises(IndexError):
                model(input_ids=wrong)
            model(**make_batch())
            assert handle.realised().num_forwards == 1, "the failed forward left nothing behind"
            model(input_ids=wrong)

    with pytest.raises(IndexError):
        work()
    assert {k: v for k, v in skeleton(model).items() if "hook" in k} == {k: v for k, v in before.items() if "hook" in k}


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_interrupted_forward_leaves_nothing_behind(family):
    model, batch = without_dropout(make(family)), make_batch()

    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    with neftune.attach(model, 5.0) as handle:
        hook = next(m for m in model.modules() if isinstance(m, nn.Linear)).register_forward_pre_hook(interrupt)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                model(**batch)
        hook.remove()
        first, second = model(**batch).loss, model(**batch).loss
        assert not torch.equal(first, second)
        assert handle.realised().num_forwards == 2
        with pytest.raises(NoiseError, match="inputs_embeds was given instead"):
            model(inputs_embeds=torch.randn(2, 9, WIDTH), labels=batch["labels"])


def test_a_module_that_calls_itself_makes_one_forward():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(VOCAB, WIDTH)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, depth: int = 2) -> torch.Tensor:
            if depth:
                return self(input_ids, attention_mask, depth - 1)
            return self.table(input_ids)

    batch, model = make_batch(), Twice()
    with neftune.attach(model) as handle:
        model(batch["input_ids"], batch["attention_mask"])
        realised = handle.realised()
    assert (realised.num_forwards, realised.num_tokens) == (1, 13)


@pytest.mark.parametrize("copier", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_of_an_attached_model_is_a_model_without_noise(copier):
    model, batch = make("llama"), make_batch()
    clean = model(**batch).loss
    with neftune.attach(model, 50.0):
        if copier == "deepcopy":
            twin = copy.deepcopy(model)
        elif copier == "pickle":
            data = pickle.dumps(model)
            assert b"neftune" not in data
            twin = pickle.loads(data)
        else:
            buffer = io.BytesIO()
            torch.save(model, buffer)
            assert b"neftune" not in buffer.getvalue()
            buffer.seek(0)
            twin = torch.load(buffer, weights_only=False)
        assert torch.equal(twin(**batch).loss, clean)
        assert not torch.equal(model(**batch).loss, clean)
        with neftune.attach(twin, 50.0):
            assert not torch.equal(twin(**batch).loss, clean)


def test_save_pretrained_is_untouched(tmp_path):
    model = make("llama")
    model.save_pretrained(tmp_path / "before")
    with neftune.attach(model):
        model.save_pretrained(tmp_path / "during")
    for file in (tmp_path / "before").iterdir():
        assert file.read_bytes() == (tmp_path / "during" / file.name).read_bytes()


def test_encoder_and_decoder_are_independent_even_on_equal_tokens():
    model = without_dropout(make("t5"))
    ids = torch.randint(3, VOCAB, (1, 40))
    with neftune.attach(model, 5.0) as handle:
        noise = noise_of(model, handle, input_ids=ids, decoder_input_ids=ids, labels=ids)
    pair = torch.stack((noise["encoder"].flatten(), noise["decoder"].flatten()))
    assert abs(torch.corrcoef(pair)[0, 1]) < 0.15


def test_one_embedding_module_for_both_stacks():
    model = without_dropout(make("bart"))
    model.set_input_embeddings(model.get_input_embeddings())
    assert model.get_encoder().embed_tokens is model.get_decoder().embed_tokens
    batch = make_batch((20, 10))
    batch["labels"] = batch["labels"].clone()
    batch["labels"][:, 5:] = -100
    with neftune.attach(model, 5.0) as handle:
        model(**batch)
        realised = handle.realised()
    assert (realised.num_documents, realised.num_tokens) == (4, 20 + 10 + 5 + 5)


class TestDecoderWithoutMask:
    """Where a decoder gets no mask, its document is the same in every batch."""

    ids = torch.tensor([[7, 8, 9, 10]])
    answer = torch.tensor([[11, 12, 13, 1]])

    def decoder_noise(self, labels: torch.Tensor | None, **given: torch.Tensor) -> torch.Tensor:
        model = without_dropout(make("t5"))
        rows = (labels if labels is not None else given["decoder_input_ids"]).shape[0]
        with neftune.attach(model, 5.0) as handle:
            handle.set_epoch(0)
            noise = noise_of(model, handle, input_ids=self.ids.repeat(rows, 1), labels=labels, **given)
        return noise["decoder"]

    def test_labels_tell_its_length(self):
        alone = self.decoder_noise(self.answer)
        padded = torch.full((2, 9), -100)
        padded[0, :4], padded[1] = self.answer, torch.arange(20, 29)
        together = self.decoder_noise(padded)
        assert torch.allclose(together[0, :4], alone[0], atol=1e-6)
        assert not together[0, 4:].any()
        assert together[1].ne(0).any(dim=-1).all()

    def test_labels_ignored_at_the_front_are_still_text(self):
        labels = torch.tensor([[-100, -100, 13, 1, -100]])
        noise = self.decoder_noise(labels, decoder_input_ids=torch.tensor([[0, 11, 12, 13, 1]]))
        assert noise[0].ne(0).any(dim=-1).tolist() == [True] * 4 + [False]

    def test_without_labels_trailing_padding_tells(self):
        alone = self.decoder_noise(None, decoder_input_ids=torch.tensor([[0, 11, 12, 13]]))
        # What shifting padded labels leaves: the EOS (1) and then padding.
        padded = torch.tensor([[0, 11, 12, 13, 1, 0, 0], [0, 5, 6, 7, 8, 9, 10]])
        together = self.decoder_noise(None, decoder_input_ids=padded)
        assert torch.allclose(together[0, :4], alone[0], atol=1e-6)
        assert not together[0, 4:].any()

    def test_a_given_mask_is_obeyed(self):
        mask = torch.tensor([[1, 1, 1, 0]])
        noise = self.decoder_noise(self.answer, decoder_attention_mask=mask)
        assert noise[0].ne(0).any(dim=-1).tolist() == [True, True, True, False]

    def test_refused_where_nothing_tells(self):
        model = make("t5")
        model.config.pad_token_id = None
        with neftune.attach(model, 5.0), pytest.raises(NoiseError, match="Pass decoder_attention_mask"):
            model(input_ids=self.ids, decoder_input_ids=torch.tensor([[0, 11, 12]]))


class TestRefusals:
    """A configured noise that does not reach the model is an error, and says what to do."""

    def test_no_embedding(self):
        with pytest.raises(NoiseError, match=r"the noise needs a token embedding.*Linear gives nothing.*define"):
            neftune.attach(nn.Linear(2, 2))

    def test_second_attach(self):
        model = make("llama")
        with neftune.attach(model), pytest.raises(NoiseError, match=r"LlamaForCausalLM has one already.*detach\(\)"):
            neftune.attach(model)
        neftune.attach(model).detach()

    def test_transformers_own_hook_before_and_after(self):
        from transformers.integrations.neftune import activate_neftune, deactivate_neftune

        model = make("llama")
        hook = activate_neftune(model, 5.0)
        with pytest.raises(ConfigError, match="Remove neftune_noise_alpha"):
            neftune.attach(model)
        deactivate_neftune(model, hook)
        with neftune.attach(model):
            activate_neftune(model, 5.0)
            with pytest.raises(ConfigError, match="takes one noise at a time, got ours and transformers'"):
                model(**make_batch())

    def test_inputs_embeds(self):
        model = make("llama")
        vectors = torch.randn(1, 4, WIDTH)
        with neftune.attach(model) as handle:
            with pytest.raises(
                NoiseError, match=r"inputs_embeds was given instead: give input_ids, or noise the embed"
            ):
                model(inputs_embeds=vectors)
            with handle.paused():
                model(inputs_embeds=vectors)
            with torch.no_grad():
                model(inputs_embeds=vectors)

    @pytest.mark.parametrize("name", ["inputs_embeds", "decoder_inputs_embeds"])
    def test_one_stack_bypassed(self, name):
        model, batch = make("t5"), make_batch((9, 9))
        given = {"input_ids": batch["input_ids"], "decoder_input_ids": batch["input_ids"]}
        given.pop(name.replace("inputs_embeds", "input_ids"))
        given[name] = torch.randn(2, 9, WIDTH)
        with neftune.attach(model), pytest.raises(NoiseError, match="inputs_embeds was given instead"):
            model(**given, labels=batch["labels"])

    def test_replaced_embedding(self):
        model = make("llama")
        with neftune.attach(model, 5.0):
            model.set_input_embeddings(nn.Embedding(VOCAB, WIDTH))
            with pytest.raises(NoiseError, match="the noise must reach LlamaForCausalLM"):
                model(**make_batch())

    def test_embedding_alone_in_eval_mode(self):
        model = make("llama")
        model.get_input_embeddings().eval()
        with neftune.attach(model), pytest.raises(NoiseError, match="is in eval mode alone, attach again"):
            model(**make_batch())

    def test_embedding_called_on_its_own(self):
        model = make("llama")
        with neftune.attach(model) as handle:
            with pytest.raises(NoiseError, match=r"Call model\(\.\.\.\), not model\.forward"):
                model.get_input_embeddings()(torch.tensor([[1, 2]]))
            with handle.paused():
                model.get_input_embeddings()(torch.tensor([[1, 2]]))

    def test_four_dimensional_mask(self):
        model = make("llama")
        mask = torch.zeros(1, 1, 4, 4)
        ids = torch.tensor([[3, 4, 5, 6]])
        with neftune.attach(model) as handle:
            with pytest.raises(NoiseError, match=r"attention_mask must be 2-D, or position_ids.*got a mask of 4 dim"):
                model(input_ids=ids, attention_mask=mask)
            model(input_ids=ids, attention_mask=mask, position_ids=torch.tensor([[0, 1, 0, 1]]))
            assert handle.realised().num_documents == 2

    def test_mask_longer_than_the_tokens(self):
        model = make("llama")
        with neftune.attach(model), pytest.raises(NoiseError, match=r"shape of the tokens, \[1, 2\], got \[1, 5\]"):
            model(input_ids=torch.tensor([[3, 4]]), attention_mask=torch.ones(1, 5))

    @pytest.mark.parametrize("labelled", [False, True])
    def test_padding_that_nothing_tells_from_text(self, labelled):
        model = make("llama")
        model.config.pad_token_id = 0
        ids = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 0] if labelled else [3, 4, 0, 0]])
        labels = ids.masked_fill(ids == 0, -100) if labelled else None
        with neftune.attach(model) as handle:
            with pytest.raises(
                NoiseError, match=r"1 of 2 rows that end in padding \(pad_token_id=0\).*Pass attention_m"
            ):
                model(input_ids=ids, labels=labels)
            model(input_ids=ids, labels=labels, attention_mask=(ids != 0).long())
            model(input_ids=ids[:1], labels=ids[:1])
            model(input_ids=torch.tensor([[3, 0, 0, 4, 0]]))
            assert handle.realised().num_documents == 4
        model.config.pad_token_id = None
        with neftune.attach(model):
            model(input_ids=ids)

    def test_a_batch_that_continues_a_cache(self):
        from transformers import DynamicCache

        model, ids = make("llama"), torch.tensor([[3, 4, 5]])
        cache = DynamicCache()
        with neftune.attach(model) as handle:
            model(input_ids=ids, past_key_values=cache, use_cache=True)
            with pytest.raises(NoiseError, match=r"must hold whole documents, got past_key_values that are not empty"):
                model(input_ids=ids, past_key_values=cache)
            with handle.paused():
                model(input_ids=ids, past_key_values=cache)

    @pytest.mark.parametrize("alpha", [-1, float("nan"), float("inf"), "5", True])
    def test_alpha(self, alpha):
        with pytest.raises(ConfigError, match="noise alpha must be a finite number >= 0, got "):
            neftune.attach(make("llama"), alpha)

    def test_distribution(self):
        with pytest.raises(UnknownNameError, match="Did you mean 'gaussian'"):
            neftune.attach(make("llama"), distribution="gausian")

    def test_nothing_to_read(self):
        with (
            neftune.attach(make("llama")) as handle,
            pytest.raises(NoiseError, match=r"0 training forwards, 0 documents noised\. Run the attached model"),
        ):
            handle.realised()


def test_batch_may_carry_its_documents_keys():
    model, batch = make("gpt2"), make_batch((6, 6))
    model = without_dropout(model)
    with neftune.attach(model, 5.0) as handle:
        handle.set_epoch(0)
        one = noise_of(model, handle, **batch, document_keys=torch.tensor([1, 2]))["only"]
        other = noise_of(model, handle, **batch, document_keys=torch.tensor([2, 1]))["only"]
    assert torch.allclose(one, other.flip(0), atol=1e-6)


def test_a_documents_key_serves_both_of_its_stacks():
    model, batch = without_dropout(make("t5")), make_batch((6, 6))
    with neftune.attach(model, 5.0) as handle:
        handle.set_epoch(0)
        one = noise_of(model, handle, **batch, document_keys=torch.tensor([1, 2]))
        other = noise_of(model, handle, **batch, document_keys=torch.tensor([2, 1]))
    for name in ("encoder", "decoder"):
        assert torch.allclose(one[name], other[name].flip(0), atol=1e-6)


def test_sequence_numbers_are_boundaries():
    model = make("llama")
    with neftune.attach(model) as handle:
        model(input_ids=torch.tensor([[3, 4, 5, 6, 7]]), seq_idx=torch.tensor([[0, 0, 1, 1, 1]], dtype=torch.int32))
        assert handle.realised().num_documents == 2


def test_positional_arguments_are_understood():
    model, batch = make("llama"), make_batch()
    with neftune.attach(model) as handle:
        model(batch["input_ids"], batch["attention_mask"])
        assert handle.realised().num_tokens == 13


def test_wrapped_models_and_direct_inner_calls():
    model, batch = make("llama"), make_batch()
    wrapped = nn.DataParallel(model)
    with neftune.attach(wrapped) as handle:
        wrapped(**batch)
        model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        assert handle.realised().num_tokens == 26


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("saved", [None, ["embed_tokens"]])
def test_lora(saved):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, batch = make("llama"), make_batch()
    tuned = get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=saved, task_type="CAUSAL_LM"))
    with neftune.attach(tuned, 5.0) as handle:
        tuned(**batch).loss.backward()
        assert handle.realised().num_tokens == 13
    before = tuned(**batch).loss
    assert torch.equal(before, tuned(**batch).loss)
