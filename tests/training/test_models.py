import json
import logging
from pathlib import Path

import pytest
import torch

from neftune.config import DataConfig, LoraConfig, ModelConfig
from neftune.errors import ModelError
from neftune.training.models import check_tokenizer, load_model
from tests.tiny_training import assert_same_bits, tiny_gpt2, tiny_llama, tiny_tokenizer, weights

DATA = DataConfig(max_length=64)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    tiny_llama().save_pretrained(str(folder))
    tiny_tokenizer().save_pretrained(str(folder))
    return folder


def load(path: Path | str, *, seed: int = 0, data: DataConfig = DATA, **model):
    return load_model(ModelConfig.model_validate({"path": str(path), **model}), data, seed=seed)


def test_loads_a_folder_as_it_is(checkpoint):
    loaded = load(checkpoint)
    assert loaded.path == str(checkpoint)
    assert not loaded.model.training
    assert loaded.tokenizer.eos_token == "</s>"
    assert_same_bits(weights(loaded.model), weights(tiny_llama()))


def test_loads_a_genuine_checkpoint(shared):
    loaded = load(shared / "models" / "stories260k", data=DataConfig(max_length=512))
    ids = loaded.tokenizer("Once upon a time", return_tensors="pt").input_ids
    out = loaded.model.generate(ids, max_new_tokens=8, do_sample=False)
    assert "there was a little girl" in loaded.tokenizer.decode(out[0])


def test_dtype_is_obeyed(checkpoint):
    assert load(checkpoint, dtype="bfloat16").model.dtype == torch.bfloat16
    assert load(checkpoint).model.dtype == torch.float32


def test_lora_trains_only_adapters_and_starts_as_the_base(checkpoint):
    loaded = load(checkpoint, adapter="lora", lora=LoraConfig(r=4))
    trained = [name for name, value in loaded.model.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, load(checkpoint).model(input_ids=ids).logits)


def test_loading_leaves_the_callers_random_state_alone(checkpoint):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load(checkpoint, adapter="lora")
    assert torch.equal(torch.rand(3), expected)


def test_loading_prints_nothing(checkpoint, capfd):
    capfd.readouterr()
    load(checkpoint, adapter="lora")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_saved_model_answers_as_before(checkpoint, tmp_path, adapter):
    loaded = load(checkpoint, adapter=adapter)
    if adapter == "lora":
        with torch.no_grad():
            for name, value in loaded.model.named_parameters():
                if "lora_B" in name:
                    value.normal_(std=0.1)
    before = weights(loaded.model)
    loaded.save(tmp_path / "saved")
    assert_same_bits(before, weights(loaded.model))
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path / "saved").model(input_ids=ids).logits, loaded.model(input_ids=ids).logits
        )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("./nothing", "there is no folder nothing"),
        ("nobody/no-such-model", "nobody/no-such-model, on the Hugging Face hub or in its local cache, does not"),
    ],
)
def test_a_missing_model_is_one_clear_error(path, message):
    with pytest.raises(ModelError, match=message):
        load(path)


def test_a_folder_without_a_checkpoint_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(tmp_path)


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])


def garble(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("damage", [truncate, garble, unknown_type, no_weights, no_tokenizer])
def test_a_broken_checkpoint_is_one_clear_error(checkpoint, damage):
    damage(checkpoint)
    with pytest.raises(ModelError, match=r"must lead to a (model|tokenizer) that loads; .* does not \(") as info:
        load(checkpoint)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 3}, r"9 are not, such as model\.layers\.2"),
        ({"intermediate_size": 48}, r"6 are not, such as model\.layers\.0\.mlp"),
    ],
)
def test_a_weight_that_is_missing_or_of_another_size_is_an_error_and_not_random(checkpoint, change, message):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        load(checkpoint)


def test_an_encoder_decoder_is_refused(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(str(tmp_path))
    tiny_tokenizer().save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="Unrecognized configuration class"):
        load(tmp_path)


@pytest.mark.parametrize("targets", ["no_such_layer", ["nothing"]])
def test_lora_on_layers_that_do_not_exist(checkpoint, targets):
    with pytest.raises(ModelError, match="must name layers of LlamaForCausalLM"):
        load(checkpoint, adapter="lora", lora=LoraConfig(target_modules=targets))


def test_lora_on_the_output_layer_is_refused(tmp_path):
    tiny_llama(tie_word_embeddings=False).save_pretrained(str(tmp_path))
    tiny_tokenizer().save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="must not name the output layer"):
        load(tmp_path, adapter="lora", lora=LoraConfig(target_modules=["lm_head"]))


def test_no_end_of_sequence_token(tmp_path):
    with pytest.raises(ModelError, match="no answer could ever end"):
        check_tokenizer(tiny_tokenizer(bos_token="<s>"), tiny_llama(), max_length=64)


def test_a_substitute_for_the_padding_token_is_said_once(caplog):
    tokenizer, model = tiny_tokenizer(bos_token="<s>", eos_token="</s>"), tiny_llama()
    with caplog.at_level(logging.INFO, logger="neftune"):
        check_tokenizer(tokenizer, model, max_length=64)
        check_tokenizer(tokenizer, model, max_length=64)
    assert tokenizer.pad_token == "</s>"
    assert [record.message for record in caplog.records if "stands in" in record.message] == [caplog.messages[0]]


def test_a_vocabulary_larger_than_the_embedding():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["extra"])
    with pytest.raises(ModelError, match="has 41 tokens, the model's embedding 40 rows"):
        check_tokenizer(tokenizer, tiny_llama(), max_length=64)


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_a_context_beyond_the_models_names_the_override(build):
    with pytest.raises(ModelError, match=r"context of 64 tokens, got 65\. Set --data\.max_length 64\."):
        check_tokenizer(tiny_tokenizer(), build(), max_length=65)


def test_remote_code_does_not_run_unless_configured(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "own.py").write_text("raise SystemError('the code ran')\n")
    with pytest.raises(ModelError) as info:
        load(checkpoint)
    assert "the code ran" not in str(info.value)
    assert "Set --model.trust_remote_code true" in str(info.value)
