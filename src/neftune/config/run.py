"""The knobs that determine one run: model, data, training, noise, evaluation, seed.

Paper defaults are those of reference section 3 (arXiv 2310.05914, appendix A.1 and the authors' train.py).
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

KnobValue = bool | float | str | list[str] | None
"""What one setting can be set to on an axis of a study; whole numbers are read as numbers."""

Strength = float | dict[str, float | str] | None
"""How strong a regulariser is: a number, or with its other settings; 0 and null are its absence."""

ModelPart = Literal["embeddings", "head", "attention", "mlp", "norms"]


class Knobs(BaseModel):
    """A group of settings: unknown keys are errors, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class LoraConfig(Knobs):
    """Low-rank adapters (arXiv 2106.09685)."""

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = Field(default=32.0, gt=0)
    """Scaling numerator: the update is multiplied by alpha / r. Not the noise's alpha."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get an adapter."""


class ModelConfig(Knobs):
    """The model that is fine-tuned."""

    path: str = "microworld"
    """A hub id, a folder with a Hugging Face checkpoint, or "microworld" for the embedded base."""
    adapter: Literal["none", "lora", "dora"] = "none"
    """"none" trains all weights; "lora" trains low-rank adapters, set in `lora`; "dora" gives them trained magnitudes
    too (arXiv 2402.09353)."""
    lora: LoraConfig = LoraConfig()
    """The adapters, used when adapter is "lora" or "dora"."""
    quantization: Literal["nf4", "int8"] | None = None
    """How the frozen weights below the adapters are held: "nf4" with "lora" is QLoRA (arXiv 2305.14314), "int8" is
    LLM.int8() (arXiv 2208.07339); null keeps them in dtype. Needs an adapter, and bitsandbytes."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""
    trust_remote_code: bool = False
    """Whether code that comes with the checkpoint may run."""


class DataConfig(Knobs):
    """What the model is fine-tuned on and asked about."""

    source: str = "microworld"
    """A file (.jsonl .json .csv .parquet, also .gz), a folder of such files, a hub id, or "microworld"."""
    format: str = "auto"
    """How rows are read: alpaca, conversations, prompt_completion, or "auto", which looks at the field names."""
    template: str = "auto"
    """Prompt template: alpaca, vicuna, chat, plain, or "auto", which takes the tokenizer's chat template where it has
    one, else alpaca."""
    num_train: int | None = Field(default=None, ge=1)
    """Training examples drawn by seed; null takes all that are left."""
    num_heldout: int = Field(default=500, ge=1)
    """Held-out examples: loss is watched and alpha is chosen on them."""
    num_test: int = Field(default=300, ge=1)
    """Test examples: the verdict is taken on them alone."""
    test_prompts: str | None = None
    """A prompt file (AlpacaEval's format) that is the test part instead; all of it is asked. An `output` beside a
    prompt is its reference."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw; for the microworld, the seed of the world."""
    max_length: int = Field(default=512, ge=8)
    """Context in tokens (paper: 512); longer examples are truncated and counted."""
    skip_bad: bool = False
    """Skip and count broken rows instead of stopping at the first."""


class TrainConfig(Knobs):
    """How one run is trained."""

    learning_rate: float = Field(default=5e-5, ge=0)
    """Peak learning rate (paper: 5e-5)."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the training data (paper: 3)."""
    batch_size: int = Field(default=128, ge=1)
    """Examples per optimiser step, over all ranks (paper: 128)."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Examples per forward pass; null takes the largest divisor of a rank's share of batch_size up to 16."""
    world_size: int = Field(default=1, ge=1)
    """Processes that train the run together, each with the whole model and its share of every batch: one a GPU, or on
    the CPU. Changes what is learnt by rounding alone (and by dropout, which each rank draws for itself)."""
    optimizer: str = "adamw"
    """A registered optimiser (`neftune list optimizers`; paper: AdamW)."""
    schedule: Literal["cosine", "linear", "constant", "cosine_with_min_lr", "wsd"] = "cosine"
    """Learning-rate schedule after warm-up (paper: cosine to 0); "wsd" is constant, then falls along a cosine."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps spent warming up (paper: 0.03)."""
    min_lr_ratio: float | None = Field(default=None, ge=0, lt=1)
    """Where "cosine_with_min_lr" and "wsd" end, as a share of the peak; null: 0.1 and 0. The warm-up of "wsd" begins
    there too."""
    decay_ratio: float | None = Field(default=None, gt=0, lt=1)
    """Share of the steps in which "wsd" falls; null: 0.2."""
    weight_decay: float = Field(default=0.0, ge=0)
    """The optimiser's decoupled weight decay, on weight matrices (paper: 0)."""
    regularizers: dict[str, Strength] = Field(default_factory=dict[str, Strength])
    """Registered regularisers (`neftune list regularizers`) -> strength, or a mapping of strength and settings; a
    strength of 0 (or null) is the same run as none."""
    freeze: list[ModelPart] = Field(default_factory=list[ModelPart])
    """Parts of the model that are not trained (arXiv 2310.05914, table 11)."""
    loss_on: Literal["response", "all"] = "response"
    """Tokens that are trained on: the responses (paper), or the prompt too (arXiv 2405.14394)."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping (paper: 1.0)."""
    gradient_checkpointing: bool = False
    """Recompute activations to save memory."""
    evaluations: int = Field(default=8, ge=1)
    """How often the clean losses are measured between start and end."""
    num_clean_train: int = Field(default=100, ge=1)
    """Training examples in the fixed sample on which the clean training loss is measured."""
    num_clean_heldout: int = Field(default=200, ge=1)
    """Held-out examples on which the clean held-out loss is measured while training."""
    checkpoints: int = Field(default=0, ge=0)
    """Checkpoints saved along the way, from which a killed run goes on; 0 starts a killed run anew."""
    save_model: bool = False
    """Keep the trained weights in the run folder."""

    @field_validator("regularizers")
    @classmethod
    def _one_way_to_say_it(cls, given: dict[str, Strength]) -> dict[str, Strength]:
        """Absent where the strength is 0, a number where that is all that is said: one setting, one hash."""
        said: dict[str, Strength] = {}
        for name, value in sorted(given.items()):
            strength = value.get("strength", math.nan) if isinstance(value, dict) else value
            if strength and isinstance(value, dict) and set(value) > {"strength"}:
                said[name] = value
            elif strength:
                said[name] = strength if isinstance(strength, float) else value
        return said

    @field_validator("freeze")
    @classmethod
    def _each_part_once(cls, given: list[ModelPart]) -> list[ModelPart]:
        return sorted(set(given))

    @model_validator(mode="after")
    def _schedule_takes_them(self) -> "TrainConfig":
        takers = {"min_lr_ratio": ("cosine_with_min_lr", "wsd"), "decay_ratio": ("wsd",)}
        for name, schedules in takers.items():
            if getattr(self, name) is not None and self.schedule not in schedules:
                raise ValueError(
                    f"train.{name} belongs to schedule {' or '.join(schedules)}, got it with {self.schedule!r}. "
                    f"Remove it, or set train.schedule to {schedules[0]}."
                )
        return self


class NoiseConfig(Knobs):
    """The noise on the embeddings (arXiv 2310.05914, algorithm 1). Give alpha or nsr, not both."""

    alpha: float | None = Field(default=None, ge=0)
    """Noise scale; 0 is the baseline (paper: 5, 10 or 15)."""
    nsr: float | None = Field(default=None, ge=0)
    """RMS(noise) / RMS(embedding) instead: alpha is solved from the model and the mean document length."""
    distribution: str = "uniform"
    """A registered distribution."""
    match: Literal["rms", "paper"] = "rms"
    """"rms" compares distributions at the uniform's RMS; "paper" uses them unscaled."""
    positions: Literal["all", "prompt", "response"] = "all"
    """Which of a document's tokens get noise (paper: all); L stays the whole document's."""
    schedule: str = "constant"
    """A registered schedule of alpha over training (paper: constant)."""

    @model_validator(mode="after")
    def _one_scale(self) -> "NoiseConfig":
        if self.alpha is not None and self.nsr is not None:
            raise ValueError(
                f"noise takes alpha or nsr, got both (alpha={self.alpha}, nsr={self.nsr}). Remove one of them."
            )
        return self

    @property
    def is_off(self) -> bool:
        """Whether this is the no-noise baseline."""
        return not (self.alpha or self.nsr)


class BenchmarksConfig(Knobs):
    """Multiple-choice and other tasks on lm-eval's own definitions (arXiv 2310.05914, section 4.1, figure 3)."""

    tasks: list[str] = Field(default_factory=list[str])
    """Tasks of lm-eval; "leaderboard" is ARC-Challenge 25-shot, HellaSwag 10, MMLU 5 and TruthfulQA mc2 0."""
    data: str | None = None
    """Folder with the task files; null reads the hub, as lm-eval does."""
    task_folder: str | None = None
    """Folder of task definitions of your own (lm-eval's YAML)."""
    limit: int | None = Field(default=None, ge=1)
    """Examples per task (per subject of MMLU), the first ones; null takes all."""
    batch_size: int = Field(default=8, ge=1)
    """Sequences per forward pass."""


LATER = "later"
"""The judge of a study that a model judges after its runs."""


class EvaluateConfig(Knobs):
    """What is asked of a trained model."""

    parts: list[Literal["train", "heldout", "test"]] = ["train", "heldout", "test"]
    """Parts that are generated and scored; "train" shows memorisation."""
    num_train_prompts: int = Field(default=100, ge=1)
    """Training prompts that are answered (the same for every run)."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer in tokens."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Paper: 1.2; 1.0 is off."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts answered together."""
    judge: str | None = None
    """A registered judge ("facts" for the microworld); "later" where `neftune judge --study` will ask a model once the
    runs are done; null compares without preferences."""
    variants: list[str] = Field(default_factory=list[str])
    """Control variants of the test part (`neftune list variants`): the same model asked to answer long, its
    end-of-sequence held back, its answers cut to the baseline's length."""
    variants_of: Literal["baseline", "all"] = "baseline"
    """Which arms are asked again under the variants; answers are cut for every arm but the baseline."""
    benchmarks: BenchmarksConfig = BenchmarksConfig()
    """Whether facts survive: benchmarks of every run, example by example."""

    @property
    def rule_judge(self) -> str | None:
        """The registered judge that scores answers as they are made; None where there is none."""
        return None if self.judge == LATER else self.judge


class RunConfig(Knobs):
    """What determines one run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    noise: NoiseConfig = NoiseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    seed: int = Field(default=0, ge=0)
    """Seed of data order, dropout and adapter initialisation; the noise has its own stream of it."""
    stop_at_train_loss_of: str | None = None
    """Run id whose final clean training loss stops this run (the equal-training-loss control)."""

    @property
    def asks_variants(self) -> bool:
        """Whether this run's model is asked again under the control variants."""
        is_baseline = self.noise.is_off and self.stop_at_train_loss_of is None
        return is_baseline or self.evaluate.variants_of == "all"
