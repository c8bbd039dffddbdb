"""`finetune` on as many ranks as torchrun starts: what each case learnt, measured and noised, rank by rank."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from neftune.config import DataConfig, ModelConfig, NoiseConfig
from neftune.evaluation.losses import example_losses
from neftune.records import Document
from neftune.training.checkpoints import CHECKPOINTS, remove_checkpoints
from neftune.training.finetune import FinetuneSettings, finetune
from neftune.training.models import load_model
from tests.tiny_training import tiny_documents, tiny_gpt2, tiny_llama, tiny_settings, tiny_tokenizer, weights

WORLD = int(os.environ.get("WORLD_SIZE", "1"))


class Seen:
    """What a model is given in the passes that train, and a hash of what its embedding made of each document."""

    def __init__(self, model: nn.Module) -> None:
        self.documents: list[list[list[int]]] = []
        self.embedded: list[tuple[list[int], str]] = []
        self._given: dict[str, torch.Tensor] = {}
        model.register_forward_pre_hook(self._call, with_kwargs=True)
        # The layers' input, so that it does not matter which hook of the embedding comes first.
        layer = next(module for name, module in model.named_modules() if name.endswith(("layers.0", "h.0")))
        layer.register_forward_pre_hook(self._layer, with_kwargs=True)

    def _call(self, module: nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        self._given = kwargs
        if module.training and torch.is_grad_enabled():
            rows = [
                row[mask != 0].tolist() for row, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
            ]
            self.documents.append(rows)

    def _layer(self, module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if module.training and torch.is_grad_enabled():
            for row, mask, states in zip(self._given["input_ids"], self._given["attention_mask"], hidden, strict=True):
                states = states[mask != 0].detach().contiguous().numpy().tobytes()
                self.embedded.append((row[mask != 0].tolist(), hashlib.sha256(states).hexdigest()))


def settings(folder: Path, *, alpha: float = 5.0, batch_size: int = 8, **train: Any) -> FinetuneSettings:
    knobs = {"learning_rate": 1e-3, "epochs": 2, "evaluations": 1, "world_size": WORLD} | train
    return tiny_settings(folder, alpha=alpha, batch_size=batch_size, **knobs)


def lora(folder: Path) -> nn.Module:
    base = str(folder / "base")
    tiny_llama().save_pretrained(base)  # the first rank alone writes
    tiny_tokenizer().save_pretrained(base)
    meet()
    config = ModelConfig.model_validate({"path": base, "adapter": "lora", "lora": {"r": 2, "dropout": 0}})
    return load_model(config, DataConfig(max_length=64), seed=1).model


def meet() -> None:
    if dist.is_initialized():
        dist.barrier()


def perform(name: str, folder: Path, model: nn.Module, documents: list[Document], how: FinetuneSettings) -> None:
    """Fine-tune and write down what came of it."""
    seen = Seen(model)
    probes = {
        "clean_train_loss": lambda: sum(example_losses(model, documents)) / len(documents),
        "clean_heldout_loss": lambda: (
            0.0 if how.stop_at_clean_train_loss else sum(example_losses(model, documents[:3]))
        ),
    }
    result = finetune(model, tiny_tokenizer(), documents, settings=replace(how, probes=probes))
    rank = os.environ.get("RANK", "0")
    outcome = {
        "history": [asdict(point) for point in result.history],
        "noise": asdict(result.noise) if result.noise else None,
        "counts": dict(result.counts),
        "documents": seen.documents,
        "embedded": seen.embedded,
    }
    (folder / f"{name}-{rank}.json").write_text(json.dumps(outcome))
    torch.save(weights(model), folder / f"{name}-{rank}.pt")


def resumed(folder: Path) -> None:
    """The same run twice: once whole, once from its first checkpoint on, with dropout."""
    for name, checkpoints in (("whole", 3), ("resumed", 3)):
        how = settings(folder / "resumable", micro_batch_size=2, epochs=3, checkpoints=checkpoints)
        if name == "resumed" and int(os.environ.get("RANK", "0")) == 0:
            for late in sorted((folder / "resumable" / CHECKPOINTS).glob("checkpoint-*"))[1:]:
                shutil.rmtree(late)
        meet()
        perform(name, folder, tiny_gpt2(dropout=0.2), tiny_documents(21), how)
    meet()
    remove_checkpoints(folder / "resumable")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    regularizers = {"r3f": {"strength": 1.0, "eps": 0.01}, "freelb": 0.1, "label_smoothing": 0.1}
    scheduled = NoiseConfig(positions="response", schedule="linear")
    cases: dict[str, Callable[[], tuple[nn.Module, int, FinetuneSettings]]] = {
        "noisy": lambda: (tiny_llama(), 21, settings(folder, micro_batch_size=2)),
        "last batch of one": lambda: (tiny_llama(), 17, replace(settings(folder, micro_batch_size=2), noise=scheduled)),
        "several passes": lambda: (tiny_llama(), 17, settings(folder, micro_batch_size=2, regularizers=regularizers)),
        "alpha=0": lambda: (
            tiny_llama(),
            21,
            settings(folder, alpha=0.0, micro_batch_size=1, gradient_checkpointing=True, loss_on="all"),
        ),
        "lora": lambda: (lora(folder), 20, settings(folder)),
        "stopped": lambda: (
            tiny_llama(),
            21,
            replace(settings(folder, micro_batch_size=4, learning_rate=3e-3, epochs=4), stop_at_clean_train_loss=3.663),
        ),
        "still": lambda: (tiny_llama(), 21, settings(folder, micro_batch_size=2, learning_rate=0.0)),
    }
    for name, build in cases.items():
        model, number, how = build()
        perform(name, folder, model, tiny_documents(number), how)
    resumed(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    main(Path(sys.argv[1]))
    dist.barrier()
    dist.destroy_process_group()
