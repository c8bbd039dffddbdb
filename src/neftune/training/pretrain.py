"""The microworld's base model: pretrained at first use, then taken from the cache.

One world seed gives one base, to the bit on one machine: one thread, one stream of random numbers, CPU only.
"""

import ast
import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neftune.data.microworld import World, make_tokenizer, make_world
from neftune.data.microworld.corpus import documents
from neftune.errors import StoreError
from neftune.records import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

OnProgress = Callable[[int, int], None]
"""Called with the optimiser steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """Sizes of the base and of its training.

    Attributes:
        num_steps: Optimiser steps.
        rows: Rows in a batch.
        row_length: Tokens in a row; documents are never split over rows.
        first_people: How many people the first steps speak of; starting small avoids a plateau.
        first_steps: How many steps that is.
        learning_rate: Peak of AdamW's learning rate, after a short warm-up, falling to 0 as a cosine.
        width, layers, heads, feed_forward: Sizes of the Llama model.
    """

    num_steps: int = 800
    rows: int = 20
    row_length: int = 96
    first_people: int = 16
    first_steps: int = 150
    learning_rate: float = 5e-3
    width: int = 128
    layers: int = 2
    heads: int = 4
    feed_forward: int = 344


def microworld_base(
    world_seed: int,
    *,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
    settings: PretrainSettings | None = None,
) -> Path:
    """Folder with the base of a world: a Hugging Face checkpoint and its tokenizer.

    The first call pretrains it (about 80 s on one core); later calls find it in the cache. Of several processes
    that ask at once, one pretrains and the others wait for it. What a killed process left behind is cleared away.

    Args:
        world_seed: Seed of the world.
        cache: Folder that keeps bases; `default_cache()` where not given.
        on_progress: Called after every step, in place of the progress bar on stderr.
        settings: Sizes; the defaults are those of the quickstart.

    Raises:
        StoreError: The cache cannot be written.
    """
    from filelock import FileLock

    settings = settings or PretrainSettings()
    cache = default_cache() if cache is None else cache
    folder = cache / f"microworld-{world_seed}-{base_key(world_seed, settings)}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _pretrain_into(folder, world_seed, settings, on_progress)
    except OSError as error:
        raise StoreError(
            f"the cache of pretrained bases must be a writable folder, got {cache} ({error}). "
            "Name another one in the environment variable NEFTUNE_CACHE."
        ) from error
    return folder


def default_cache() -> Path:
    """The folder in the environment variable NEFTUNE_CACHE, or ``~/.cache/neftune``."""
    named = os.environ.get("NEFTUNE_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "neftune"


def base_key(world_seed: int, settings: PretrainSettings) -> str:
    """Hash of all that determines the base: seed, settings, library versions and the code that makes the text."""
    from neftune.data import microworld

    sources = [Path(__file__), *sorted(Path(str(microworld.__file__)).parent.glob("*.py"))]
    code = [ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in sources]
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return content_hash([world_seed, asdict(settings), libraries, code])


def pretrain(
    world_seed: int, settings: PretrainSettings, *, folder: Path, on_progress: OnProgress | None = None
) -> "PreTrainedModel":
    """The base of a world, pretrained.

    Args:
        world_seed: Seed of the world, of the text and of the initial weights.
        settings: Sizes.
        folder: Where the trainer may put its files.
        on_progress: Called after every step, in place of the progress bar on stderr.
    """
    from transformers import Trainer, TrainingArguments

    world, tokenizer = make_world(world_seed), make_tokenizer()
    rows = pretraining_rows(world, tokenizer, settings)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.num_steps,
        per_device_train_batch_size=settings.rows,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(50, settings.num_steps // 4),
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=world_seed,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    with _alone(world_seed), _progress(on_progress, world_seed, settings.num_steps) as callback:
        model = _fresh_model(len(tokenizer), tokenizer, settings)
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[callback]).train()  # pyright: ignore[reportArgumentType]
    return model


def pretraining_rows(
    world: World, tokenizer: "PreTrainedTokenizerFast", settings: PretrainSettings
) -> list[dict[str, list[int]]]:
    """Rows of input ids and labels, in the order of training; padding is not trained on."""
    rng = random.Random(f"pretraining/{world.seed}")
    first = min(settings.first_steps, settings.num_steps)
    few = rng.sample(world.people, settings.first_people)
    rows = _fill(documents(world, people=few, rng=rng), tokenizer, settings, num_rows=first * settings.rows)
    everybody = documents(world, people=world.people, rng=rng)
    return rows + _fill(everybody, tokenizer, settings, num_rows=(settings.num_steps - first) * settings.rows)


def _fill(
    texts: Iterator[str], tokenizer: "PreTrainedTokenizerFast", settings: PretrainSettings, *, num_rows: int
) -> list[dict[str, list[int]]]:
    """Rows filled with whole documents; of a few waiting documents the longest that fits goes in."""
    length, waiting, rows = settings.row_length, list[list[int]](), list[dict[str, list[int]]]()
    while len(rows) < num_rows:
        row: list[int] = []
        while True:
            while len(waiting) < 8:
                waiting.append([*tokenizer(next(texts))["input_ids"], tokenizer.eos_token_id])  # pyright: ignore
            fitting = [document for document in waiting if len(row) + len(document) <= length]
            if not fitting:
                break
            longest = max(fitting, key=len)
            waiting.remove(longest)
            row += longest
        padding = length - len(row)
        rows.append({"input_ids": row + [tokenizer.pad_token_id] * padding, "labels": row + [-100] * padding})  # pyright: ignore
    return rows


def _fresh_model(
    vocabulary_size: int, tokenizer: "PreTrainedTokenizerFast", settings: PretrainSettings
) -> "PreTrainedModel":
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            intermediate_size=settings.feed_forward,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _pretrain_into(folder: Path, world_seed: int, settings: PretrainSettings, on_progress: OnProgress | None) -> None:
    """Pretrain beside ``folder`` and move the result there in one step; the caller holds the lock."""
    for left_over in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        model = pretrain(world_seed, settings, folder=Path(temporary) / "trainer", on_progress=on_progress)
        done = Path(temporary) / "done"
        model.save_pretrained(done)
        make_tokenizer().save_pretrained(done)
        done.rename(folder)


@contextlib.contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread and seeded random numbers inside; outside, everything as it was."""
    import numpy as np
    import torch

    threads, python_state, numpy_state = torch.get_num_threads(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def _progress(on_progress: OnProgress | None, world_seed: int, num_steps: int) -> Iterator["TrainerCallback"]:
    """A trainer callback that reports every step: to the caller, or as a bar on stderr with its expected end."""
    from tqdm import tqdm
    from transformers import TrainerCallback

    bar = None
    if on_progress is None:
        bar = tqdm(total=num_steps, desc=f"pretraining the base of world {world_seed}", unit="step")

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
