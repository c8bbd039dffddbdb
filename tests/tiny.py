"""A checkpoint and a data file so small that a whole run takes a second: for tests of what surrounds training."""

import json
from pathlib import Path

COLOURS = ("red", "blue", "green", "grey", "black", "white", "brown", "pink")
THINGS = ("hat", "cat", "door", "cup", "car", "kite", "shoe", "lamp")


def make_checkpoint(folder: Path, *, width: int = 32, max_length: int = 64) -> Path:
    """A random Llama of one layer with a word-level tokenizer that knows `make_examples`' words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<bos>",
        "<eos>",
        "<unk>",
        "\n",
        *COLOURS,
        *THINGS,
        "which",
        "what",
        "colour",
        "is",
        "the",
        "?",
        ".",
    ]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_examples(path: Path) -> Path:
    """64 questions about the colour of things, as prompt/completion JSON lines."""
    rows = [
        {"prompt": f"what colour is the {colour} {thing} ?", "completion": f"the {thing} is {colour} ."}
        for colour in COLOURS
        for thing in THINGS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_recipe(folder: Path, **changes: object) -> dict[str, object]:
    """A recipe on the two, as plain data: baseline and one noisy arm, two seeds."""
    return {
        "name": "tiny",
        "model": {"path": str(make_checkpoint(folder / "checkpoint"))},
        "data": {
            "source": str(make_examples(folder / "examples.jsonl")),
            "template": "plain",
            "num_train": 24,
            "num_heldout": 16,
            "num_test": 16,
            "max_length": 32,
        },
        "train": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 8, "evaluations": 1},
        "evaluate": {"max_new_tokens": 8, "num_train_prompts": 4},
        "study": {"scientific": {"noise.alpha": [0, 5]}, "seeds": [0, 1]},
        **changes,
    }
