"""Every trainer of TRL that runs on one machine, on a tiny model: one table, which a new one joins by a line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.tiny import COLOURS, THINGS

NUM_EXAMPLES = 8


def reward_by_length(completions: Sequence[Any], **kwargs: object) -> list[float]:
    return [float(len(completion)) for completion in completions]


def _texts() -> list[tuple[str, str, str]]:
    """Prompt, answer and other answer, of many lengths."""
    texts = []
    for i in range(NUM_EXAMPLES):
        thing, colour = THINGS[i], COLOURS[i]
        prompt = " ".join(["what colour is the", *COLOURS[: i % 4], thing, "?"])
        answer = " ".join(["the", thing, "is", *COLOURS[: (3 * i) % 5], colour, "."])
        other = " ".join(["is", *THINGS[: (5 * i) % 7 + 1]])
        # TRL joins a prompt and its answer as they are.
        texts.append((prompt, f" {answer}", f" {other}"))
    return texts


def completions() -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": answer} for prompt, answer, _ in _texts()]


def preferences() -> list[dict[str, Any]]:
    return [{"prompt": prompt, "chosen": answer, "rejected": other} for prompt, answer, other in _texts()]


def implicit_preferences() -> list[dict[str, Any]]:
    return [{"chosen": f"{p}{answer}", "rejected": f"{p}{other}"} for p, answer, other in _texts()]


def labelled() -> list[dict[str, Any]]:
    rows = [[(p, answer, True), (p, other, False)] for p, answer, other in _texts()]
    return [{"prompt": p, "completion": text, "label": good} for pair in rows for p, text, good in pair][:NUM_EXAMPLES]


def triples() -> list[dict[str, Any]]:
    return [row | {"reference": f"{row['chosen']} ."} for row in preferences()]


def demonstrations() -> list[dict[str, Any]]:
    return [{"prompt": prompt, "privileged_context": answer} for prompt, answer, _ in _texts()]


def chats() -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
        for prompt, answer, _ in _texts()
    ]


def prompts() -> list[dict[str, Any]]:
    return [{"prompt": prompt} for prompt, _, _ in _texts()]


@dataclass(frozen=True)
class Kind:
    """A trainer of TRL: its module, the name before ``Trainer`` and ``Config``, and what it needs."""

    module: str
    name: str
    rows: Callable[[], list[dict[str, Any]]]
    options: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    model: str = "AutoModelForCausalLM"


ONLINE = {"num_generations": 2, "max_completion_length": 12, "max_steps": 2}
CHAT = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"
DISTILLED = {"max_completion_length": 12, "max_steps": 2}
REWARDED, TAUGHT = ("reward",), ("teacher",)

KINDS = {
    "SFT": Kind("trl", "SFT", completions),
    "DPO": Kind("trl", "DPO", preferences),
    "KTO": Kind("trl", "KTO", labelled),
    "Reward": Kind("trl", "Reward", implicit_preferences, model="AutoModelForSequenceClassification"),
    "GRPO": Kind("trl", "GRPO", prompts, ONLINE, REWARDED),
    "RLOO": Kind("trl", "RLOO", prompts, ONLINE, REWARDED),
    "Distillation": Kind("trl", "Distillation", prompts, DISTILLED, TAUGHT),
    "ORPO": Kind("trl.experimental.orpo", "ORPO", preferences),
    "CPO": Kind("trl.experimental.cpo", "CPO", preferences),
    "TPO": Kind("trl.experimental.tpo", "TPO", triples),
    "GKD": Kind("trl.experimental.gkd", "GKD", chats, {"max_new_tokens": 12, "lmbda": 0.5}, TAUGHT),
    "GOLD": Kind("trl.experimental.gold", "GOLD", chats, {**DISTILLED, "lmbda": 0.5}, ("teacher", "bytes")),
    "OnlineDPO": Kind(
        "trl.experimental.online_dpo", "OnlineDPO", prompts, {"max_new_tokens": 12, "max_steps": 2}, REWARDED
    ),
    "GMPO": Kind("trl.experimental.gmpo", "GMPO", prompts, ONLINE, REWARDED),
    "A2PO": Kind("trl.experimental.a2po", "A2PO", prompts, {"max_completion_length": 12, "max_steps": 2}, REWARDED),
    "SDFT": Kind("trl.experimental.sdft", "SDFT", demonstrations, {**ONLINE, "distillation_topk": 8}),
    "SDPO": Kind("trl.experimental.sdpo", "SDPO", prompts, ONLINE, REWARDED),
    "IWOPD": Kind("trl.experimental.iw_opd", "IWOPD", chats, DISTILLED, TAUGHT),
}


def make_config(kind: Kind, folder: Path, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    return getattr(import_module(kind.module), f"{kind.name}Config")(**settings | kind.options | options)


def load_model(checkpoint: Path, kind: Kind | None = None) -> Any:
    import transformers

    if kind is None or kind.model == "AutoModelForCausalLM":
        return transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    return getattr(transformers, kind.model).from_pretrained(checkpoint, num_labels=1)


def byte_tokenizer() -> Any:
    """One token a byte, for trainers that take byte-level tokenizers alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **special)


def byte_model(checkpoint: Path) -> Any:
    """The checkpoint's architecture over bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(checkpoint, vocab_size=259, max_position_embeddings=256)
    return AutoModelForCausalLM.from_config(config)


def make_teacher(teacher: Any) -> Any:
    """A model with opinions of its own."""
    import torch

    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(3)
    return teacher


def make_trainer(
    name: str,
    checkpoint: Path,
    folder: Path,
    callbacks: Sequence[Any],
    /,
    *,
    given: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """The trainer, ready to train; ``given`` goes to it as it is, ``options`` into its config."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    kind = KINDS[name]
    in_bytes = "bytes" in kind.needs
    tokenizer = byte_tokenizer() if in_bytes else AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    tokenizer.chat_template = CHAT if kind.rows is chats else None
    arguments: dict[str, Any] = {
        "model": byte_model(checkpoint) if in_bytes else load_model(checkpoint, kind),
        "args": make_config(kind, folder, **options),
        "train_dataset": Dataset.from_list(kind.rows()),
        "processing_class": tokenizer,
        "callbacks": list(callbacks),
    }
    if "reward" in kind.needs:
        arguments["reward_funcs"] = reward_by_length
    if "teacher" in kind.needs:
        arguments["teacher_model"] = make_teacher((byte_model if in_bytes else load_model)(checkpoint))
    return getattr(import_module(kind.module), f"{kind.name}Trainer")(**arguments | (given or {}))
