"""Random models of each family, small enough for a unit test. A new family is one line of a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

VOCAB, WIDTH = 97, 32
_ROOT = WIDTH**0.5


@dataclass(frozen=True)
class Family:
    """How to build one family's model.

    Attributes:
        model: Its class in transformers; the class's own config is built from ``config``.
        config: The config's values.
        multiplier: m, what the embedding module multiplies its table with.
        positions: Whether its forward takes position ids, so that documents can be packed.
    """

    model: str
    config: Mapping[str, Any] = field(default_factory=dict)
    multiplier: float = 1.0
    positions: bool = True

    def build(self) -> nn.Module:
        """A new random model."""
        import transformers

        kind: Any = getattr(transformers, self.model)
        return kind(kind.config_class(**self.config))


@dataclass(frozen=True)
class VisionFamily(Family):
    """How to build a model that reads images, and one image for it.

    Attributes:
        image: What the model is given for one image of ``num_places`` places.
        num_places: Places of one image among the tokens.
        types: Name of the argument that marks the image's places, for models that ask for it.
    """

    image: Callable[[], dict[str, torch.Tensor]] = dict
    num_places: int = 4
    types: str | None = None


_SIZES = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
SMALL = {**_SIZES, **_LAYERS, "hidden_size": WIDTH, "intermediate_size": 64, "num_key_value_heads": 1}
_HEADS = {**SMALL, "head_dim": 16}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_GPT = {**_SIZES, "n_embd": WIDTH, "n_layer": 1, "n_head": 2, "n_positions": 64, "rotary_dim": 8}
_T5 = {
    **_SIZES,
    "eos_token_id": 1,
    "d_model": WIDTH,
    "d_ff": 64,
    "d_kv": 16,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
_BART = {
    **_SIZES,
    "d_model": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
_SCALED_BART = {**_BART, "scale_embedding": True}
_CROSSED = {**_HEADS, "cross_attention_hidden_size": WIDTH}
_SEPARATE = {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "decoder_vocab_size": VOCAB}
_MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LATENT = {
    "num_key_value_heads": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
}
_PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, "layer_types": ["full_attention"]}

DECODERS: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", {**SMALL, "num_hidden_layers": 2, "num_key_value_heads": 2}),
    "llama-tied": Family("LlamaForCausalLM", {**SMALL, "tie_word_embeddings": True}),
    "mistral": Family("MistralForCausalLM", SMALL),
    "ministral3": Family("Ministral3ForCausalLM", _HEADS),
    "qwen2": Family("Qwen2ForCausalLM", SMALL),
    "qwen3": Family("Qwen3ForCausalLM", _HEADS),
    "qwen3-moe": Family("Qwen3MoeForCausalLM", {**_HEADS, **_EXPERTS}),
    "qwen3-next": Family("Qwen3NextForCausalLM", {**_HEADS, **_EXPERTS, **_LINEAR, "num_hidden_layers": 2}),
    "gemma": Family("GemmaForCausalLM", _HEADS, _ROOT),
    "gemma2": Family("Gemma2ForCausalLM", _HEADS, _ROOT),
    "gemma3": Family("Gemma3ForCausalLM", _HEADS, _ROOT),
    "gemma3n": Family("Gemma3nForCausalLM", {**_HEADS, **_PER_LAYER, "num_kv_shared_layers": 0}, _ROOT),
    "gemma4": Family("Gemma4ForCausalLM", {**_HEADS, **_PER_LAYER}, _ROOT),
    "phi": Family("PhiForCausalLM", SMALL),
    "phi3": Family("Phi3ForCausalLM", SMALL),
    "opt": Family("OPTForCausalLM", {**SMALL, "word_embed_proj_dim": WIDTH, "ffn_dim": 64}),
    "opt-projected": Family("OPTForCausalLM", {**SMALL, "word_embed_proj_dim": 16, "ffn_dim": 64}),
    "gpt2": Family("GPT2LMHeadModel", _GPT),
    "gptj": Family("GPTJForCausalLM", _GPT),
    "gpt-neox": Family("GPTNeoXForCausalLM", SMALL),
    "gpt-oss": Family("GptOssForCausalLM", {**_HEADS, **_EXPERTS}),
    "bloom": Family("BloomForCausalLM", {**_SIZES, "hidden_size": WIDTH, "n_layer": 1, "n_head": 2}, positions=False),
    "falcon": Family("FalconForCausalLM", SMALL),
    "falcon-h1": Family("FalconH1ForCausalLM", {**SMALL, **_MAMBA, "embedding_multiplier": 3.0}),
    "mamba": Family("MambaForCausalLM", {**SMALL, "state_size": 8}, positions=False),
    "granite": Family("GraniteForCausalLM", {**SMALL, "embedding_multiplier": 12.0}),
    "cohere": Family("CohereForCausalLM", SMALL),
    "olmo2": Family("Olmo2ForCausalLM", SMALL),
    "stablelm": Family("StableLmForCausalLM", SMALL),
    "starcoder2": Family("Starcoder2ForCausalLM", SMALL),
    "smollm3": Family("SmolLM3ForCausalLM", SMALL),
    "glm4": Family("Glm4ForCausalLM", _HEADS),
    "mixtral": Family("MixtralForCausalLM", {**SMALL, **_EXPERTS}),
    "deepseek-v3": Family("DeepseekV3ForCausalLM", {**SMALL, **_LATENT}),
    "modernbert-decoder": Family("ModernBertDecoderForCausalLM", SMALL),
    "bert": Family("BertForMaskedLM", SMALL),
    "bert-classifier": Family("BertForSequenceClassification", SMALL),
    "roberta": Family("RobertaForMaskedLM", SMALL),
    "modernbert": Family("ModernBertForMaskedLM", SMALL),
    "albert": Family("AlbertForMaskedLM", {**SMALL, "embedding_size": 16}),
}
ENCODER_DECODERS: dict[str, Family] = {
    "t5": Family("T5ForConditionalGeneration", _T5),
    "t5-untied": Family("T5ForConditionalGeneration", {**_T5, "tie_word_embeddings": False}),
    "mt5": Family("MT5ForConditionalGeneration", _T5),
    "umt5": Family("UMT5ForConditionalGeneration", _T5),
    "longt5": Family("LongT5ForConditionalGeneration", _T5),
    "bart": Family("BartForConditionalGeneration", _SCALED_BART, _ROOT),
    "bart-unscaled": Family("BartForConditionalGeneration", _BART),
    "mbart": Family("MBartForConditionalGeneration", _SCALED_BART, _ROOT),
    "pegasus": Family("PegasusForConditionalGeneration", _SCALED_BART),
    "m2m100": Family("M2M100ForConditionalGeneration", _SCALED_BART, _ROOT),
    "marian": Family("MarianMTModel", _SCALED_BART),
    "marian-separate": Family("MarianMTModel", {**_BART, **_SEPARATE}),
    "blenderbot": Family("BlenderbotForConditionalGeneration", _SCALED_BART, _ROOT),
    "nllb-moe": Family("NllbMoeForConditionalGeneration", {**_SCALED_BART, "num_experts": 2}, _ROOT),
    "t5gemma": Family("T5GemmaForConditionalGeneration", {**_SIZES, "encoder": _HEADS, "decoder": _CROSSED}),
    "led": Family("LEDForConditionalGeneration", {**_BART, "attention_window": 4}),
}
_XLNET = {"vocab_size": VOCAB, "d_model": WIDTH, "n_layer": 1, "n_head": 2, "d_inner": WIDTH}
_WIDE = {"attention_window": 4, "max_position_embeddings": 100}
REFUSED: dict[str, tuple[Family, str]] = {
    "inkling": (Family("InklingForCausalLM", SMALL), "InklingNormedEmbedding, which gives other numbers than 1 times"),
    "ibert": (Family("IBertForMaskedLM", SMALL), "must turn ids of shape .* into one vector each, got .* into tuple"),
    "xlnet": (Family("XLNetLMHeadModel", _XLNET), r"was given it, \[2, 9\], got \[9, 2\], turned or padded by the"),
    "longformer": (Family("LongformerForMaskedLM", {**SMALL, **_WIDE}), r"was given it, \[2, 9\], got \[2, 12\]"),
}
"""What transformers' own behaviour makes impossible, and what the refusal says of it."""

IMAGE, _VIDEO = VOCAB - 5, VOCAB - 4
"""The id in the places of an image, and of a video."""

_TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_CLIP = {**_TOWER, "model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, "projection_dim": 16}
_SIGLIP = {**_TOWER, "model_type": "siglip_vision_model", "image_size": 8, "patch_size": 4, "vision_use_head": False}
_INTERN = {**_TOWER, "image_size": [8, 8], "patch_size": [4, 4]}
_QWEN_TOWER = {
    "depth": 1,
    "hidden_size": 16,
    "out_hidden_size": WIDTH,
    "num_heads": 2,
    "intermediate_size": 16,
    "patch_size": 4,
    "spatial_merge_size": 1,
    "temporal_patch_size": 1,
}
_WINDOWS = {"fullatt_block_indexes": [0], "window_size": 8}
_DEEPSTACK = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
_QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": _VIDEO, "vision_start_token_id": 3, "vision_end_token_id": 4}
_GEMMA_IDS = {"image_token_index": IMAGE, "image_token_id": IMAGE, "mm_tokens_per_image": 4}


def _vision(text: str, sizes: Mapping[str, Any], tower: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
    return {"text_config": {**sizes, "model_type": text}, "vision_config": dict(tower), **rest}


def _pixels() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))}


def _patches() -> dict[str, torch.Tensor]:
    values = torch.randn(4, 3 * 16, generator=torch.Generator().manual_seed(2))
    return {"pixel_values": values, "image_grid_thw": torch.tensor([[1, 2, 2]])}


VISION: dict[str, VisionFamily] = {
    "llava": VisionFamily(
        "LlavaForConditionalGeneration",
        _vision("llama", SMALL, _CLIP, image_token_index=IMAGE, vision_feature_layer=-1),
        image=_pixels,
    ),
    "qwen2.5-vl": VisionFamily(
        "Qwen2_5_VLForConditionalGeneration",
        _vision("qwen2_5_vl_text", {**SMALL, **_MROPE}, {**_QWEN_TOWER, **_WINDOWS}, **_QWEN_IDS),
        image=_patches,
        types="mm_token_type_ids",
    ),
    "qwen3-vl": VisionFamily(
        "Qwen3VLForConditionalGeneration",
        _vision("qwen3_vl_text", {**_HEADS, **_MROPE}, {**_QWEN_TOWER, **_DEEPSTACK}, **_QWEN_IDS),
        image=_patches,
        types="mm_token_type_ids",
    ),
    "gemma3-vision": VisionFamily(
        "Gemma3ForConditionalGeneration",
        _vision("gemma3_text", _HEADS, _SIGLIP, **_GEMMA_IDS),
        _ROOT,
        image=_pixels,
        types="token_type_ids",
    ),
    "gemma3-vision-id-beyond-table": VisionFamily(
        "Gemma3ForConditionalGeneration",
        _vision("gemma3_text", {**_HEADS, "vocab_size": IMAGE}, _SIGLIP, **_GEMMA_IDS),
        _ROOT,
        image=_pixels,
        types="token_type_ids",
    ),
    "paligemma": VisionFamily(
        "PaliGemmaForConditionalGeneration",
        _vision("gemma", _HEADS, _SIGLIP, image_token_index=IMAGE, projection_dim=WIDTH),
        _ROOT,
        image=_pixels,
        types="token_type_ids",
    ),
    "internvl": VisionFamily(
        "InternVLForConditionalGeneration",
        _vision("qwen2", SMALL, _INTERN, image_token_id=IMAGE, downsample_ratio=0.5),
        image=_pixels,
        num_places=1,
    ),
}
FAMILIES: dict[str, Family] = {**DECODERS, **ENCODER_DECODERS, **VISION}
TYPICAL = ("llama", "gpt2", "opt", "gemma", "t5", "bart")
"""One family of each kind, for tests of what does not differ within a kind."""


def make(family: str) -> nn.Module:
    """The family's model, always with the same weights, in training mode."""
    torch.manual_seed(0)
    return FAMILIES[family].build().train()


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
