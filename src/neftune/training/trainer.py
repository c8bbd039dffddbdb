"""TRL's SFTTrainer, set up to train on documents exactly as they are, quietly, and to leave the model clean."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from neftune.config import TrainConfig
from neftune.errors import ConfigError
from neftune.records import Document
from neftune.training.collator import Collator
from neftune.training.optimizers import learning_rate_arguments
from neftune.training.randomness import stream_seed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

LARGEST_MICRO_BATCH = 16


def make_trainer(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    documents: Sequence[Document],
    *,
    arguments: "SFTConfig",
    loss_on: Literal["response", "all"] = "response",
) -> "SFTTrainer":
    """A trainer over ``documents`` that neither re-tokenises nor prints.

    Args:
        model: Trained in place.
        tokenizer: Gives the padding token.
        documents: Tokens and loss masks.
        arguments: From `trainer_arguments`.
        loss_on: Tokens that are trained on.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.sft_trainer import SFTTrainer

    with no_telemetry():
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"index": list(range(len(documents)))}),
            processing_class=tokenizer,
            data_collator=Collator(documents, pad_token_id=cast(int, tokenizer.pad_token_id), loss_on=loss_on),
        )
    trainer.remove_callback(PrinterCallback)
    # TRL's own loss divides by the tokens of the whole optimiser batch, whatever the model's forward accepts; without
    # this, a model whose forward takes no loss arguments would weigh micro-batches equally.
    trainer.model_accepts_loss_kwargs = True
    return trainer


def trainer_arguments(train: TrainConfig, *, seed: int, folder: Path, num_steps: int) -> "SFTConfig":
    """TRL's arguments for ``train``.

    Args:
        train: Obeyed in full, except evaluations and checkpoints, which callbacks time, and regularisers, freezing and
            the tokens trained on, which are set on model and trainer.
        seed: The run's seed.
        folder: Where checkpoints go.
        num_steps: Optimiser steps of the whole run.

    Raises:
        ConfigError: Several GPUs or processes would share the run.
    """
    from trl.trainer.sft_config import SFTConfig

    micro = micro_batch_size(train)
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=train.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=train.batch_size // micro,
        learning_rate=train.learning_rate,
        **learning_rate_arguments(train, num_steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        activation_checkpointing=train.gradient_checkpointing,
        bf16=False,  # the weights' own type decides; TRL would turn autocast on
        seed=stream_seed(seed, "dropout"),
        data_seed=stream_seed(seed, "data order"),
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    _require_one_device(arguments)
    return arguments


def _require_one_device(arguments: "SFTConfig") -> None:
    # The trainer would give every device a micro-batch of its own: the optimiser batch times the devices.
    if arguments.n_gpu > 1 or arguments.world_size > 1:
        raise ConfigError(
            f"a run must train on one device in one process, so that train.batch_size holds; got {arguments.n_gpu} "
            f"visible GPUs and {arguments.world_size} processes. Set CUDA_VISIBLE_DEVICES=0 and start without a "
            "distributed launcher."
        )


def micro_batch_size(train: TrainConfig) -> int:
    """Examples per forward pass: as asked, else the largest divisor of the batch that is at most 16."""
    largest = train.micro_batch_size or min(train.batch_size, LARGEST_MICRO_BATCH)
    return next(size for size in range(largest, 0, -1) if train.batch_size % size == 0)


@contextlib.contextmanager
def tidied(model: "PreTrainedModel | PeftModel") -> Iterator[None]:
    """Takes off the model, also after an exception, what trainers leave on it; ends in eval mode."""
    from peft import PeftModel

    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    forward = vars(base).get("forward")
    checkpointed = base.is_activation_checkpointing
    try:
        yield
    finally:
        vars(base).pop("forward", None)  # TRL's fused output layer
        if forward is not None:
            base.forward = forward
        if base.is_activation_checkpointing and not checkpointed:
            base.activation_checkpointing_disable()
            base.disable_input_require_grads()
        model.zero_grad(set_to_none=True)
        model.eval()


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Keeps TRL from reporting every trainer that is made to the hub."""
    from huggingface_hub import constants

    was_off = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = was_off
