"""Random models of each family, small enough for a unit test."""

from collections.abc import Callable

import torch
from torch import nn

VOCAB, WIDTH = 97, 32


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
    )


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
    )


def _opt() -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            word_embed_proj_dim=WIDTH,
            ffn_dim=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )


def _gemma() -> nn.Module:
    from transformers import GemmaConfig, GemmaForCausalLM

    return GemmaForCausalLM(
        GemmaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
    )


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(vocab_size=VOCAB, d_model=WIDTH, d_ff=64, d_kv=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )


def _bart() -> nn.Module:
    from transformers import BartConfig, BartForConditionalGeneration

    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=VOCAB,
            d_model=WIDTH,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=64,
            scale_embedding=True,
            forced_eos_token_id=2,
        )
    )


DECODERS: dict[str, Callable[[], nn.Module]] = {"llama": _llama, "gpt2": _gpt2, "opt": _opt, "gemma": _gemma}
ENCODER_DECODERS: dict[str, Callable[[], nn.Module]] = {"t5": _t5, "bart": _bart}
FAMILIES = {**DECODERS, **ENCODER_DECODERS}


def make(family: str) -> nn.Module:
    """The family's model, always with the same weights, in training mode."""
    torch.manual_seed(0)
    return FAMILIES[family]().train()


def make_batch(lengths: tuple[int, ...] = (9, 4), *, side: str = "right") -> dict[str, torch.Tensor]:
    """Padded token ids, their mask and labels."""
    width = max(lengths)
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, place] = torch.randint(3, VOCAB, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def without_dropout(model: nn.Module) -> nn.Module:
    """The model with every dropout probability at 0."""
    for module in model.modules():
        for name in ("p", "dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model
