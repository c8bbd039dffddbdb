"""What a pipeline of TRL's SFTTrainer really applies to a model and data: trained at learning rate 0 and watched."""

import contextlib
import random
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neftune.config import DataConfig, ModelConfig
from neftune.data.batches import tokenise
from neftune.data.datasets import load_data, read_examples
from neftune.errors import ConfigError
from neftune.integrations.transformers import NoiseCallback
from neftune.noise.audit import audit
from neftune.noise.findings import AuditResult
from neftune.training.models import MICROWORLD, LoadedModel, load_model, quiet_transformers
from neftune.training.trainer import no_telemetry

if TYPE_CHECKING:
    from trl.trainer.sft_trainer import SFTTrainer

Provider = Literal["transformers", "neftune", "none"]
Layout = Literal["padded", "packed", "padding-free"]

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The pipeline that is audited.

    Attributes:
        alpha: Nominal scale, > 0; what the provider is told, and what is compared with.
        provider: Who adds the noise: transformers' ``neftune_noise_alpha``, this package's callback, or nobody.
        layout: Rows padded to the longest of the batch; documents packed into rows of ``data.max_length`` tokens
            (``packing="bfd"``); or a whole batch flattened into one row (``padding_free``).
        batch_size: Rows per forward pass.
        num_batches: Training steps.
        seed: Of the order of the data.
    """

    alpha: float = 5.0
    provider: Provider = "transformers"
    layout: Layout = "padded"
    batch_size: int = 4
    num_batches: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("provider", self.provider, Provider), ("layout", self.layout, Layout)):
            if value not in get_args(known):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}.")
        for name, number in (("batch_size", self.batch_size), ("num_batches", self.num_batches)):
            if number < 1:
                raise ConfigError(f"{name} must be 1 or more, got {number}.")


def audit_pipeline(model: ModelConfig, data: DataConfig, pipeline: Pipeline) -> AuditResult:
    """What every document gets in some training steps, one evaluation and one pass without gradients in training mode.

    Args:
        model: Loaded, and trained at learning rate 0.
        data: Its source, format, template and max_length are used; all of its examples may be drawn.
        pipeline: The layout and who adds the noise.

    Raises:
        ConfigError: alpha is not above 0.
        DataError: The data cannot be read.
        ModelError: The model or its tokenizer cannot be used.
    """
    loaded = load_model(model, data, seed=pipeline.seed)
    documents = _documents(loaded, data, pipeline)
    with _quiet(), no_telemetry(), tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(loaded, documents, pipeline, max_length=data.max_length, folder=folder)
        with audit(trainer, pipeline.alpha) as watched:
            trainer.train()
    return watched.result()


def _documents(loaded: LoadedModel, data: DataConfig, pipeline: Pipeline) -> list[list[int]]:
    """Token ids of as many documents as the batches hold, in a random order."""
    if data.source == MICROWORLD:
        examples = list(load_data(data).parts["train"])
    else:
        examples = list(read_examples(data.source, format=data.format, skip_bad=data.skip_bad).examples)
    random.Random(pipeline.seed).shuffle(examples)
    rows = pipeline.batch_size * pipeline.num_batches
    documents: list[list[int]] = []
    for i in range(0, len(examples), _CHUNK):
        chunk = examples[i : i + _CHUNK]
        made = tokenise(chunk, loaded.tokenizer, template=data.template, max_length=data.max_length).documents
        documents += [list(document.input_ids) for document in made]
        if _fills(documents, rows, data.max_length if pipeline.layout == "packed" else None):
            break
    return documents if pipeline.layout == "packed" else documents[:rows]


def _fills(documents: Sequence[Sequence[int]], rows: int, size: int | None) -> bool:
    return len(documents) >= rows if size is None else sum(map(len, documents)) >= rows * size


def _trainer(
    loaded: LoadedModel, documents: list[list[int]], pipeline: Pipeline, *, max_length: int, folder: str
) -> "SFTTrainer":
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    arguments = SFTConfig(
        output_dir=folder,
        max_steps=pipeline.num_batches,
        learning_rate=0.0,
        per_device_train_batch_size=pipeline.batch_size,
        per_device_eval_batch_size=pipeline.batch_size,
        packing=pipeline.layout == "packed",
        padding_free=pipeline.layout == "padding-free",
        max_length=max_length if pipeline.layout == "packed" else None,
        neftune_noise_alpha=pipeline.alpha if pipeline.provider == "transformers" else None,
        activation_checkpointing=False,
        bf16=False,
        seed=pipeline.seed,
        eval_strategy="steps",
        eval_steps=pipeline.num_batches,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = SFTTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": documents}),
        eval_dataset=Dataset.from_dict({"input_ids": documents[: pipeline.batch_size]}),
        processing_class=loaded.tokenizer,
        callbacks=[_WithoutGradients(), *([NoiseCallback(pipeline.alpha)] if pipeline.provider == "neftune" else [])],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the libraries' advice on how to train, and their bars, off the terminal."""
    import datasets

    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if had_bars:
            datasets.enable_progress_bars()


class _WithoutGradients(TrainerCallback):
    """One pass in training mode without gradients, as DPO runs its reference and GRPO its generation."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Run it while the noise is still on: at the last step."""
        if state.global_step == state.max_steps:
            model = kwargs["model"].train()
            batch = next(iter(kwargs["train_dataloader"]))
            with torch.no_grad():
                model(**batch)
