"""transformers' Trainer with the callback, on as many ranks as torchrun starts; prints what it logged and learned."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import Dataset
from transformers import Trainer, TrainingArguments

import neftune
from tests.parallel.ranks import BATCH, make_model, require
from tests.tiny_families import make_batch

LENGTHS = (11, 5, 11, 8, 4, 7, 9, 6)


def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([example[name] for example in examples]) for name in BATCH}


def main(folder: str) -> None:
    batch = make_batch(LENGTHS)
    rows = [{name: value[i].tolist() for name, value in batch.items()} for i in range(len(LENGTHS))]
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    callback = neftune.NoiseCallback(20.0)
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4 // num_ranks,
        num_train_epochs=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        optim="sgd",
        logging_steps=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        make_model(),
        arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=collate,
        callbacks=[callback],
    )
    require(arguments.world_size == num_ranks, f"torchrun started {arguments.world_size} ranks")
    trainer.train()
    result = {
        "log": [entry for entry in trainer.state.log_history if "noise_alpha" in entry],
        "own_documents": callback.realised().num_documents,
        "weights": {name: p.detach().double().norm().item() for name, p in trainer.model.named_parameters()},
    }
    (Path(folder) / f"rank{arguments.process_index}.json").write_text(json.dumps(result))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
