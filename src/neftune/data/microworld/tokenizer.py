"""The microworld's tokenizer: one token a word, nothing unknown, text as it was after decoding."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from neftune.data.microworld import lexicon

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(len(SPECIAL))

WORD = r"\n|'s\b|\w+|[^\w\s]"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('the microworld has no ' + message['role'] + ' role') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Special tokens first, then every word of the lexicon once, in the order it is written there."""
    words = dict.fromkeys([*SPECIAL, "\n"])
    for text in _texts():
        words.update(dict.fromkeys(re.findall(WORD, re.sub(r"\{\w+\}", "", text))))
    return list(words)


def make_tokenizer() -> "PreTrainedTokenizerFast":
    """The tokenizer, the same for every world; `save_pretrained` writes the usual Hugging Face files."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    # The WordPiece decoder puts a space before every word and takes it away before "." and "'s".
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece("##", cleanup=True), decoders.Replace(" \n", "\n"), decoders.Replace(" :", ":")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _texts() -> Iterator[str]:
    yield " ".join(lexicon.PEOPLE)
    for attribute in lexicon.ATTRIBUTES.values():
        yield " ".join(attribute.values)
        yield from attribute.facts + attribute.questions + (attribute.clause,)
    yield from lexicon.OPENERS + lexicon.CLOSERS
    yield from lexicon.OPEN_SEEN + lexicon.OPEN_REWORDED + lexicon.TWO_SEEN + lexicon.TWO_REWORDED + lexicon.WRAPPERS
    yield from (label for pair in lexicon.LABELS for label in pair)
