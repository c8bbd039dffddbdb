"""TRL's SFTTrainer, set up to train on documents exactly as they are, quietly, and to leave the model clean."""

import contextlib
import math
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
from neftune.training.ranks import require_ranks

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

    from neftune.training.shares import EvenOrder

    # TRL rounds the adapters of quantised models to bfloat16, where a resumed training would go on with float32.
    trained = [(one, one.data) for one in model.parameters() if one.requires_grad]
    with no_telemetry():
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"index": list(range(len(documents)))}),
            processing_class=tokenizer,
            data_collator=Collator(documents, pad_token_id=cast(int, tokenizer.pad_token_id), loss_on=loss_on),
        )
    if arguments.world_size > 1:
        trainer.train_dataset = EvenOrder(  # pyright: ignore[reportAttributeAccessIssue] - SFTTrainer checked its own
            len(documents),
            data_seed=cast(int, arguments.data_seed),
            round_size=arguments.world_size * arguments.per_device_train_batch_size,
        )
    for parameter, values in trained:
        parameter.data = values
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
        ConfigError: Several GPUs would share a batch, there are more or fewer processes than asked for, or the batch
            does not divide among them.
    """
    from trl.trainer.sft_config import SFTConfig

    micro = micro_batch_size(train)
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=train.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=train.batch_size // (micro * train.world_size),
        learning_rate=train.learning_rate,
        **learning_rate_arguments(train, num_steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        activation_checkpointing=train.gradient_checkpointing,
        bf16=False,  # the weights' own type decides; TRL would turn autocast on
        seed=stream_seed(seed, "dropout"),
        data_seed=stream_seed(seed, "data order"),
        # On several ranks the order is the data set's own: see `EvenOrder`.
        train_sampling_strategy="sequential" if train.world_size > 1 else "random",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        remove_unused_columns=False,
        # accelerate sees ranks without a GPU only where it is told of the CPU.
        use_cpu=train.world_size > 1 and not torch.cuda.is_available(),
        ddp_broadcast_buffers=False,  # in place, between the passes of a regulariser that makes two
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    require_ranks(train.world_size, num_devices=arguments.n_gpu, num_processes=arguments.world_size)
    return arguments


def micro_batch_size(train: TrainConfig) -> int:
    """Examples per forward pass of one rank: as asked, else the largest divisor of its share that is at most 16.

    Raises:
        ConfigError: The optimiser batch does not divide into such parts.
    """
    batch, world, asked = train.batch_size, train.world_size, train.micro_batch_size
    if batch % (world * (asked or 1)):
        ranks = (
            f"train.world_size x train.micro_batch_size, {world} x {asked}" if asked else f"train.world_size {world}"
        )
        fits = f"micro_batch_size {math.gcd(batch // world, asked)}" if asked and batch % world == 0 else None
        above = f"batch_size {-(-batch // (world * (asked or 1))) * world * (asked or 1)}"
        raise ConfigError(f"train.batch_size must be a multiple of {ranks}, got {batch}. Set --train.{fits or above}.")
    share = batch // world
    return asked or next(size for size in range(min(share, LARGEST_MICRO_BATCH), 0, -1) if share % size == 0)


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
