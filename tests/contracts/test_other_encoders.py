"""Encoders that hear or see embed no tokens: the noise is their decoder's alone. Composite models are two stacks."""

import pytest
import torch
from torch import Tensor, nn

import neftune
from neftune.noise.stacks import find_stacks
from tests.tiny_families import SMALL, VOCAB, without_dropout

ALPHA = 5.0
LABELS = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])


def hearing() -> tuple[nn.Module, dict[str, Tensor]]:
    """Whisper and two sounds."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    names = ("layers", "attention_heads", "ffn_dim")
    layers = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in names}
    lengths = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = WhisperConfig(vocab_size=VOCAB, d_model=16, **layers, **lengths, **tokens)
    return WhisperForConditionalGeneration(config), {"input_features": torch.randn(2, 8, 32)}


def seeing() -> tuple[nn.Module, dict[str, Tensor]]:
    """A vision transformer with GPT-2 behind it, and two images."""
    from transformers import GPT2Config, GPT2LMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4))
    text = GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=1, n_head=2, add_cross_attention=True, eos_token_id=2)
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=GPT2LMHeadModel(text))
    model.config.pad_token_id, model.config.decoder_start_token_id = 0, 1
    return model, {"pixel_values": torch.randn(2, 3, 8, 8)}


@pytest.mark.parametrize("make_model", [hearing, seeing])
def test_the_decoder_alone_is_noised(make_model):
    model, batch = make_model()
    model = without_dropout(model.train())
    assert [stack.role for stack in find_stacks(model)] == ["decoder"]
    with neftune.attach(model, ALPHA) as handle:
        model(**batch, labels=LABELS).loss.backward()
        assert handle.realised().num_tokens == 6, "targets of 4 and 2 tokens"


# What it says of losses before its version 4.12.
@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way:FutureWarning")
def test_two_models_made_into_one():
    from transformers import BertConfig, BertLMHeadModel, BertModel, EncoderDecoderModel

    config = BertConfig(**SMALL, is_decoder=True, add_cross_attention=True)
    model = EncoderDecoderModel(encoder=BertModel(BertConfig(**SMALL)), decoder=BertLMHeadModel(config))
    model.config.pad_token_id, model.config.decoder_start_token_id = 0, 1
    ids = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
    with neftune.attach(without_dropout(model.train()), ALPHA) as handle:
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=LABELS).loss.backward()
        realised = handle.realised()
    assert (realised.num_documents, realised.num_tokens) == (4, 8 + 6)
