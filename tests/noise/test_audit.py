"""The audit on models that are noised by transformers' hook, by ours, by hand and not at all."""

import copy
import json
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.integrations.neftune import activate_neftune

import neftune
from neftune.errors import ConfigError, NoiseError
from neftune.noise.findings import AuditResult
from tests.tiny_families import DECODERS, ENCODER_DECODERS, TYPICAL, VOCAB, WIDTH, make, make_batch

LENGTHS = (4, 8, 20, 60)


class Tokens(nn.Module):
    """Nothing but an embedding: enough to measure noise on thousands of documents."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, width)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, labels=None, inputs_embeds=None):
        return self.embed(input_ids) if inputs_embeds is None else inputs_embeds


def audited(model: nn.Module, batch: dict, *, times: int = 3, **options) -> AuditResult:
    with neftune.audit(model, 5.0, **options) as audit:
        for _ in range(times):
            model(**batch)
    return audit.result()


def group_means(result: AuditResult) -> list[float]:
    return [group.mean for group in result.find().groups]


def test_transformers_hook_on_a_padded_batch():
    model = Tokens()
    activate_neftune(model, 5.0)
    result = audited(model, make_batch(LENGTHS), times=8)
    assert group_means(result)[0] == pytest.approx((4 / 60) ** 0.5, abs=0.02)
    finding = result.find()
    assert finding.mean == pytest.approx(sum((length / 60) ** 0.5 for length in LENGTHS) / 4, abs=0.01)
    assert (finding.num_documents, finding.num_tokens, finding.num_padding) == (32, 8 * 92, 8 * 148)
    assert finding.padding_rms == pytest.approx(5 / math.sqrt(3 * 60 * 256), rel=0.01)
    assert finding.embedding_rms == pytest.approx(1.0, rel=0.05)
    assert not result.is_exact
    assert result.verdict == (
        f"documents get {finding.mean:.2f} of alpha=5 on average, the shortest tenth {finding.groups[0].mean:.2f}; "
        "padding is noised"
    )
    assert result.translation == f"alpha=5 under this pipeline is about alpha={5 * finding.mean:.2g} with neftune"


@pytest.mark.parametrize("side", ["right", "left"])
def test_ours_is_exact(side):
    model = Tokens()
    with neftune.attach(model, 5.0):
        result = audited(model, make_batch(LENGTHS, side=side), times=8)
    assert result.find().mean == pytest.approx(1, abs=0.01)
    assert result.find().padding_rms == 0
    assert result.verdict == "exact: documents get 1.00 of alpha=5 at every length, padding none"


def test_no_noise_and_twice_the_noise():
    model, batch = Tokens(), make_batch(LENGTHS)
    assert audited(model, batch).verdict == "documents get no noise at all (0.00 of alpha=5)"
    activate_neftune(model, 5.0)
    once = audited(model, batch, times=10).find().mean
    activate_neftune(model, 5.0)
    assert audited(model, batch, times=10).find().mean / once == pytest.approx(2**0.5, rel=0.02)


def test_packed_rows_and_a_padding_free_batch():
    model, lengths = Tokens(), [10, 30, 60]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    batch = {"input_ids": torch.randint(3, VOCAB, (1, 100)), "position_ids": positions}
    hook = activate_neftune(model, 5.0)
    assert group_means(audited(model, batch, times=1)) == pytest.approx([(n / 100) ** 0.5 for n in lengths], abs=0.03)
    hook.remove()
    del model.embed.neftune_noise_alpha
    with neftune.attach(model, 5.0):
        assert audited(model, batch).is_exact


def test_noise_is_seen_however_it_is_added():
    def patched(model: nn.Module) -> None:
        forward = model.embed.forward
        model.embed.forward = lambda ids: forward(ids) + 0.1

    def in_place(model: nn.Module) -> None:
        model.embed.register_forward_hook(lambda _module, _args, output: output.data.add_(0.1))

    def prepended(model: nn.Module) -> None:
        model.embed.register_forward_hook(lambda _module, _args, output: output + 0.1, prepend=True)

    for add in (patched, in_place, prepended):
        model = Tokens()
        with neftune.audit(model, 5.0) as audit:
            model(**make_batch(LENGTHS))
            add(model)
            model(**make_batch(LENGTHS))
        finding = audit.result().find()
        assert finding.padding_rms == pytest.approx(0.1 / 2**0.5, rel=1e-4), add.__name__
        assert finding.least == 0
        assert finding.most == pytest.approx(0.1 * math.sqrt(3 * 60 * 256) / 5, rel=1e-3)


@pytest.mark.parametrize("family", TYPICAL)
@pytest.mark.parametrize("provider", ["transformers", "neftune", "none"])
def test_every_family_trains_the_same_bit_for_bit_and_is_read(family, provider):
    def train(*, watched: bool) -> list[torch.Tensor]:
        model = make(family)
        torch.manual_seed(5)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        audit = neftune.audit(model, 5.0) if watched else None
        if provider == "transformers":
            activate_neftune(model, 5.0)
        if provider == "neftune":
            neftune.attach(model, 5.0)
        for _ in range(3):
            model(**make_batch((9, 4))).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        if audit:
            results.append(audit.result())
            audit.detach()
        return [*model.parameters(), torch.get_rng_state()]

    results: list[AuditResult] = []
    for bare, watched in zip(train(watched=False), train(watched=True), strict=True):
        assert torch.equal(bare, watched)
    means = [finding.mean for finding in results[0].findings]
    multiplier = WIDTH**0.5 if family in ("gemma",) else 1
    theirs = 0.0 if family in ("t5", "bart") else (1 + (4 / 9) ** 0.5) / 2 / multiplier
    expected = {"transformers": theirs, "neftune": 1.0, "none": 0.0}[provider]
    assert means == pytest.approx([expected] * len(means), abs=0.06)
    assert len(means) == (2 if family in ("t5", "bart") else 1)
    assert results[0].is_exact == (provider == "neftune")


@pytest.mark.parametrize("family", [*DECODERS, *ENCODER_DECODERS])
def test_ours_is_exact_in_every_family_and_none_is_none(family):
    model, batch = make(family), make_batch()
    if family in DECODERS:
        batch.pop("labels")
    with neftune.attach(model, 5.0):
        assert audited(model, batch).verdict == "exact: documents get 1.00 of alpha=5 at every length, padding none"
    assert [finding.noise_rms for finding in audited(model, batch).findings] == [0] * (1 + (family in ENCODER_DECODERS))


def test_an_encoder_decoder_that_gets_nothing_says_so_for_both_stacks():
    model = make("t5")
    activate_neftune(model, 5.0)
    assert audited(model, make_batch()).verdict == (
        "the encoder's documents get no noise at all (0.00 of alpha=5); "
        "the decoder's documents get no noise at all (0.00 of alpha=5)"
    )


def test_phases():
    model, batch = Tokens(), make_batch((40, 40))
    activate_neftune(model, 5.0)
    with neftune.audit(model, 5.0) as audit:
        model(**batch)
        with torch.no_grad():
            model(**batch)
        model.eval()
        model(**batch)
    result = audit.result()
    assert [finding.phase for finding in result.findings] == ["training", "no_grad", "eval"]
    assert [round(finding.mean) for finding in result.findings] == [1, 1, 0]
    assert "documents are noised in training mode without gradients" in result.verdict
    assert "eval" not in result.verdict
    model = Tokens()
    with neftune.attach(model, 5.0), neftune.audit(model) as audit:
        model(**batch)
        with torch.no_grad():
            model(**batch)
        model.eval()
        model(**batch)
    assert audit.result().verdict.endswith("padding none; none in training mode without gradients or in eval mode")


def test_generation_with_a_cache_is_judged_by_the_whole_document():
    model = make("llama")
    hook = activate_neftune(model, 5.0)
    ids = torch.randint(3, VOCAB, (2, 12))
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    with neftune.audit(model) as audit:
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    finding = audit.result().find("no_grad")
    assert not finding.unreadable
    expected = [1.0, *(length**0.5 for length in range(13, 32))]
    assert finding.mean == pytest.approx(sum(expected) / 20, rel=0.03)
    assert finding.groups[-1].longest == 31
    hook.remove()
    del model.get_input_embeddings().neftune_noise_alpha
    with neftune.attach(model, 5.0), neftune.audit(model) as audit:
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert audit.result().find("no_grad").noise_rms == 0


def test_inputs_embeds():
    model, batch = Tokens(), make_batch(LENGTHS)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with neftune.audit(model, 5.0) as audit:
        embeds = model.get_input_embeddings()(ids)
        model(inputs_embeds=neftune.perturb(embeds, 5.0, attention_mask=mask), attention_mask=mask)
    assert audit.result().is_exact
    with neftune.audit(model, 5.0) as audit:
        model(inputs_embeds=embeds, attention_mask=mask)
    assert audit.result().verdict == (
        "documents cannot be read; 1 of 1 passes are unreadable "
        "(inputs_embeds was given and the token ids behind it are not known)"
    )
    assert math.isnan(audit.result().find().mean)


def test_what_cannot_be_read_is_said_and_nothing_is_raised():
    model = Tokens()
    activate_neftune(model, 5.0)
    with neftune.audit(model) as audit:
        model(torch.ones(1, 5, dtype=torch.long), attention_mask=torch.ones(1, 1, 5, 5))
        with pytest.raises(IndexError):
            model(torch.full((1, 5), VOCAB))
        model(torch.ones(1, 5, dtype=torch.long))
    finding = audit.result().find()
    assert (finding.num_forwards, finding.num_measured) == (3, 1)
    assert sum(finding.unreadable.values()) == 2
    assert any("attention_mask must be 2-D" in reason for reason in finding.unreadable)
    assert "passes are unreadable (attention_mask must be 2-D" in audit.result().verdict
    assert not audit.result().is_exact


def test_an_embedding_that_gives_something_else_is_unreadable_and_works_on():
    model = Tokens()
    model.embed.register_forward_hook(lambda _module, _args, output: (output, None))
    with neftune.audit(model, 5.0) as audit:
        assert len(model(**make_batch())) == 2
    assert audit.result().verdict.endswith("1 of 1 passes are unreadable (AttributeError)")


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputation_is_not_another_exposure(reentrant):
    model, anchor = make("gpt2"), torch.ones((), requires_grad=True)
    with neftune.audit(model, 5.0) as audit:
        checkpoint(lambda one: model(**make_batch()).loss * one, anchor, use_reentrant=reentrant).backward()
    finding = audit.result().find()
    assert (finding.phase, finding.num_forwards, len(audit.result().findings)) == ("training", 1, 1)


def test_subsampling():
    model, batch = Tokens(), make_batch(LENGTHS)
    finding = audited(model, batch, times=7, every=3).find()
    assert (finding.num_forwards, finding.num_measured) == (7, 3)
    finding = audited(model, batch, times=7, max_documents=5).find()
    assert (finding.num_forwards, finding.num_documents) == (7, 8)


def test_it_leaves_no_trace_and_goes_before_or_after_a_noise():
    model = make("llama")
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    audit = neftune.audit(model, 5.0)
    with neftune.attach(model, 3.0), pytest.raises(NoiseError, match="takes one noise at a time"):
        neftune.attach(model, 3.0)
    model(**make_batch())
    copied = copy.deepcopy(model)
    audit.detach()
    audit.detach()
    copied(**make_batch())
    assert audit.result().find().num_forwards == 1
    for name, module in model.named_modules():
        assert {k: v for k, v in vars(module).items() if "hook" in k} == {
            k: v for k, v in before[name].items() if "hook" in k
        }


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_on_the_embedding_is_part_of_the_clean_output_and_a_hook_inside_it_is_not():
    from peft import LoraConfig, get_peft_model

    base = make("llama")
    noise = activate_neftune(base, 5.0)
    model = get_peft_model(base, LoraConfig(target_modules=["embed_tokens", "q_proj"], init_lora_weights=False))
    batch = make_batch((40, 40))
    assert audited(model.train(), batch).find().mean == pytest.approx(1, abs=0.05)
    noise.remove()
    assert audited(model, batch).find().noise_rms == 0


def test_half_precision():
    model = Tokens().to(torch.bfloat16)
    with neftune.attach(model, 50.0):
        assert audited(model, make_batch(LENGTHS)).find().mean * 5 == pytest.approx(50, rel=0.01)


def test_the_result_is_plain_data_and_a_narrow_table():
    model = Tokens()
    activate_neftune(model, 5.0)
    result = audited(model, make_batch(tuple(range(2, 40))))
    assert len(result.find().groups) == 10
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["findings"][0]["groups"][0]["num_documents"] == result.find().groups[0].num_documents
    assert values["verdict"] == result.verdict
    assert all(len(line) <= 100 for line in result.table().splitlines())
    for shown in ("documents", "2-5", "least", "noise on", "5% of documents get at most", "noise-to-embedding ratio"):
        assert shown in result.table()


def test_the_nominal_alpha_is_read_off_what_is_there():
    model = make("llama")
    with neftune.attach(model, 3.0, schedule="linear"):
        assert neftune.audit(model).alpha == 3.0
    activate_neftune(model, 7.0)
    assert neftune.audit(model).alpha == 7.0


def test_a_noise_on_some_tokens_alone_is_said():
    model, batch = Tokens(), make_batch((40, 40))
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, :10] = -100
    with neftune.attach(model, 5.0, positions="response"):
        result = audited(model, batch)
    assert result.find().noised_share == pytest.approx(0.75)
    assert result.find().mean == pytest.approx(0.75**0.5, abs=0.02)
    assert result.verdict.endswith("75% of the real tokens get noise")


def test_a_compiled_model_runs_on_unseen():
    torch._dynamo.reset()
    model = Tokens()
    audit = neftune.audit(model, 5)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(**make_batch()), model(**make_batch()))
    assert audit.result().find().num_forwards == 1


def test_an_embedding_that_the_caller_names():
    model = nn.Sequential(nn.Embedding(VOCAB, 64), nn.Linear(64, 2))
    with neftune.audit(model, 5.0, embeddings="0") as audit:
        model(torch.randint(3, VOCAB, (2, 9)))
    assert audit.result().find().num_documents == 2


@pytest.mark.parametrize(
    ("subject", "options", "message"),
    [
        (nn.Linear(2, 2), {"alpha": 5}, "the noise needs a token embedding"),
        ("model", {"alpha": 5}, "audit takes a model or a trainer that has one, got str. Pass the model."),
        (Tokens(), {}, r"needs the nominal alpha to compare with; Tokens names none. Pass it: audit\(model, alpha=5\)"),
        (Tokens(), {"alpha": 0}, "compares with a nominal alpha > 0, got 0. Pass the alpha"),
        (Tokens(), {"alpha": -1}, "noise alpha must be a finite number >= 0, got -1"),
        (Tokens(), {"alpha": 5, "every": 0}, "every must be a whole number >= 1, got 0"),
        (Tokens(), {"alpha": 5, "max_documents": 0}, "max_documents must be a whole number >= 1, got 0"),
    ],
)
def test_wrong_use(subject, options, message):
    with pytest.raises((ConfigError, NoiseError), match=message):
        neftune.audit(subject, **options)


def test_an_audit_that_saw_nothing_is_an_error():
    audit = neftune.audit(Tokens(), 5)
    with pytest.raises(NoiseError, match="needs forward passes of the model it watches, got none"):
        audit.result()
    with neftune.audit(model := Tokens(), 5) as audit:
        model(**make_batch())
    with pytest.raises(NoiseError, match="must have seen a stack in phase eval, it saw only/training"):
        audit.result().find("eval")
