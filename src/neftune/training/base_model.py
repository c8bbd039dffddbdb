"""Pretraining of the microworld's base model.

One world seed gives one base, to the bit on one machine: CPU only, one thread, one stream of random numbers.
"""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.data.microworld import World, corpus, make_tokenizer, make_world
from neftune.data.microworld.tokenizer import BOS_ID, EOS, EOS_ID, PAD_ID

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

OnProgress = Callable[[int, int], None]
"""Called with the optimiser steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """Sizes of the base and of its training.

    Attributes:
        num_steps: Optimiser steps.
        num_rows: Rows in a batch.
        row_length: Tokens in a row; documents are never split over rows.
        num_first_people: How many people the first steps speak of; starting small avoids a plateau.
        num_first_steps: How many steps that is.
        learning_rate: Peak of AdamW's learning rate, reached after the warm-up and falling to 0 as a cosine.
        num_warmup_steps: Steps of the warm-up.
        width, num_layers, num_heads, feed_forward: Sizes of the Llama model.
    """

    num_steps: int = 800
    num_rows: int = 20
    row_length: int = 96
    num_first_people: int = 16
    num_first_steps: int = 150
    learning_rate: float = 5e-3
    num_warmup_steps: int = 50
    width: int = 128
    num_layers: int = 2
    num_heads: int = 4
    feed_forward: int = 344


def pretrain(
    world_seed: int, settings: PretrainSettings, *, folder: Path, on_progress: OnProgress | None = None
) -> "PreTrainedModel":
    """The base of a world, pretrained on one thread of the CPU.

    Args:
        world_seed: Seed of the world, of the text and of the initial weights.
        settings: Sizes.
        folder: Where the trainer may put its files.
        on_progress: Called after every step, in place of the progress bar on stderr.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

    tokenizer = make_tokenizer()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.num_steps,
        per_device_train_batch_size=settings.num_rows,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.num_warmup_steps,
        seed=world_seed,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    with _alone(world_seed), _reporting(on_progress, world_seed, settings.num_steps) as callback:
        rows = pretraining_rows(make_world(world_seed), tokenizer, settings)
        model = _fresh_model(tokenizer, settings)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[callback])  # pyright: ignore[reportArgumentType]
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model


def pretraining_rows(
    world: World, tokenizer: "PreTrainedTokenizerFast", settings: PretrainSettings
) -> list[dict[str, list[int]]]:
    """Input ids and labels of every row, in the order of training; padding is not trained on."""
    rng = random.Random(f"pretraining/{world.seed}")
    num_first = min(settings.num_first_steps, settings.num_steps)
    few = rng.sample(world.people, settings.num_first_people)

    def rows_about(people: Sequence[str], num_steps: int) -> list[list[int]]:
        documents = _encoded(corpus.documents(world, people=people, rng=rng), tokenizer)
        return corpus.pack(documents, num_rows=num_steps * settings.num_rows, row_length=settings.row_length)

    rows = rows_about(few, num_first) + rows_about(world.people, settings.num_steps - num_first)
    padding = [settings.row_length - len(row) for row in rows]
    return [
        {"input_ids": row + [PAD_ID] * num, "labels": row + [-100] * num}
        for row, num in zip(rows, padding, strict=True)
    ]


def _encoded(texts: Iterator[str], tokenizer: "PreTrainedTokenizerFast") -> Iterator[list[int]]:
    """Documents as token ids with BOS and EOS, tokenised in batches for speed."""
    while batch := [text + EOS for text in itertools.islice(texts, 1000)]:
        yield from tokenizer(batch)["input_ids"]  # pyright: ignore[reportReturnType]


def _fresh_model(tokenizer: "PreTrainedTokenizerFast", settings: PretrainSettings) -> "PreTrainedModel":
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.width,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            num_key_value_heads=settings.num_heads,
            intermediate_size=settings.feed_forward,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=PAD_ID,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
        )
    )


@contextlib.contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread and seeded random numbers inside; outside, everything as it was."""
    import numpy as np
    import torch

    num_threads, python_state, numpy_state = torch.get_num_threads(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(num_threads)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def _reporting(on_progress: OnProgress | None, world_seed: int, num_steps: int) -> Iterator["TrainerCallback"]:
    """A trainer callback that reports every step: to the caller, or as a bar on stderr with its expected end."""
    from tqdm import tqdm
    from transformers import TrainerCallback

    bar = None
    if on_progress is None:
        bar = tqdm(total=num_steps, desc=f"pretraining the base of world {world_seed}", unit="step", mininterval=0.5)

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if bar is not None:
                bar.update()
            if on_progress is not None:
                on_progress(state.global_step, num_steps)

    try:
        yield Report()
    finally:
        if bar is not None:
            bar.close()
