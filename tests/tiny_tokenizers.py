"""Tokenizers of the kinds that models come with, built here: they differ in what they put before and between words."""

import string
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("a", "n")]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _sentencepiece_model() -> models.BPE:
    merges = [*_MERGES, ("▁", "t"), ("▁", "the"), ("▁", "a"), ("▁", "A"), ("▁", "▁"), (":", ")"), (":", "(")]
    letters = sorted(set(string.printable.strip()) | {"▁"})
    tokens = ["<unk>", "<s>", "</s>", *_BYTES, *letters, *(a + b for a, b in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)


def _llama(inner: Tokenizer) -> PreTrainedTokenizerFast:
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def sentencepiece() -> PreTrainedTokenizerFast:
    """Like Llama 1 and 2: a space before every text and after every special token, bytes for rare characters, BOS."""
    inner = Tokenizer(_sentencepiece_model())
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _llama(inner)


def metaspace() -> PreTrainedTokenizerFast:
    """Like later Llama 2 conversions: a space before the first word of a text only."""
    inner = Tokenizer(_sentencepiece_model())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _llama(inner)


def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2, Llama 3 and Qwen: bytes, no space put before a text, and no BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [*_MERGES, ("Ġ", "t"), ("Ġ", "the"), ("Ċ", "Ċ"), (":", "Ċ"), ("Ġ", "Ġ")]
    tokens = [*alphabet, *(a + b for a, b in merges)]
    inner = Tokenizer(models.BPE({token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def words() -> PreTrainedTokenizerFast:
    """One token a word, as toy worlds have: anything unknown is <unk>, spaces are lost."""
    known = ["<pad>", "<s>", "</s>", "<unk>", ":", "Response", "the", "answer", "is", "question", "USER", "ASSISTANT"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "sentencepiece": sentencepiece,
    "metaspace": metaspace,
    "byte_level": byte_level,
    "words": words,
}
EXACT = ("sentencepiece", "metaspace", "byte_level")
"""Kinds that give back every text."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system turn') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
NO_END = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
NO_GENERATION_PROMPT = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
)
FORGETS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Writes an empty thought before the last answer only, as Qwen 3 does."""
