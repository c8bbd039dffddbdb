"""What a study asks, and by which rule its answer is read: its arms, stages, seeds and decision."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from neftune.config.run import DataConfig, EvaluateConfig, Knobs, KnobValue, ModelConfig, NoiseConfig, TrainConfig


class Control(Knobs):
    """An arm that explains an effect and never wins."""

    kind: Literal["equal_train_loss"] = "equal_train_loss"
    """equal_train_loss: the baseline, stopped once its clean training loss is at or below the one its
    noisy twin (same seed, same block) ended with."""
    match: dict[str, KnobValue] = Field(default_factory=dict[str, KnobValue])
    """The scientific setting of the noisy twin, e.g. {noise.nsr: 0.6}; {} in a study with confirm_seeds, whose twin is
    the chosen arm."""


class Decision(Knobs):
    """The rule, written down before the runs, that turns intervals into a verdict."""

    choose_by: str = "loss"
    """Metric on the held-out part by which one alpha is chosen (a score, or "win_rate", "lc_win_rate")."""
    judge_by: str = "loss"
    """Metric on the test part by which the chosen alpha is judged."""
    harm_by: list[str] = Field(default_factory=list[str])
    """Metrics on the test part that must not get worse by more than their tolerance."""
    harm_tolerance: dict[str, float] = Field(default_factory=dict[str, float])
    """Largest acceptable worsening per harm metric, in the metric's unit; 0 where not given."""
    harm_ruled_out: bool = False
    """Whether "use" needs every harm ruled out beyond its tolerance, where else it must only not be shown."""
    min_effect: float = Field(default=0.0, ge=0)
    """Smallest effect worth having, in the judged metric's unit."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of every interval."""

    @model_validator(mode="after")
    def _tolerances_belong(self) -> "Decision":
        for metric, tolerance in self.harm_tolerance.items():
            if metric not in self.harm_by or tolerance < 0:
                raise ValueError(
                    f"study.decision.harm_tolerance takes tolerances >= 0 for metrics of harm_by {self.harm_by}, "
                    f"got {metric}: {tolerance}."
                )
        return self


class Search(Knobs):
    """A sweep over orders of magnitude beside the baseline, refined around the best value of every block."""

    knob: Literal["noise.alpha", "noise.nsr"] | None = None
    """What is swept; null: nothing."""
    low: float = Field(default=0.1, gt=0)
    """Smallest value."""
    high: float = Field(default=100.0, gt=0)
    """Largest value."""
    points: int = Field(default=7, ge=2, le=200)
    """Values from low to high, evenly spaced on a logarithmic scale."""
    refine: int = Field(default=1, ge=0, le=6)
    """Rounds of refinement: each adds the values half-way (in the logarithm) between the best and its neighbours."""

    @model_validator(mode="after")
    def _low_is_low(self) -> "Search":
        if self.low >= self.high:
            raise ValueError(f"study.search needs low < high, got {self.low} and {self.high}.")
        return self


class StudyConfig(Knobs):
    """Which runs are made and how they are compared."""

    scientific: dict[str, list[KnobValue]] = Field(default_factory=lambda: {"noise.alpha": [0, 5]})
    """What the study asks about: dotted knob -> values. Their product is the arms; several axes make a factorial."""
    arms: list[dict[str, KnobValue]] = Field(default_factory=list[dict[str, KnobValue]])
    """Arms one by one, each a setting of dotted knobs, beside the product of `scientific` where both are given."""
    search: Search = Search()
    """Arms along one knob over orders of magnitude, instead of `scientific`."""
    nuisance: dict[str, list[KnobValue]] = Field(default_factory=dict[str, list[KnobValue]])
    """What must be tuned for every arm alike: dotted knob -> values. Every arm tries their whole product in every
    block, on the held-out part, and is then run with its own best."""
    tune_by: str = "loss"
    """Score on the held-out part by which nuisance knobs are tuned."""
    tune_seeds: list[int] = Field(default_factory=lambda: [1000], min_length=1)
    """Seeds of the tuning runs; they judge nothing."""
    confirm_seeds: list[int] = Field(default_factory=list[int])
    """Fresh seeds on which the chosen arm and the baseline are run again. The runs before then never see the test
    part: they choose, these judge. Empty: one set of runs chooses on the held-out part and judges on the test part."""
    blocks: dict[str, list[KnobValue]] = Field(default_factory=dict[str, list[KnobValue]])
    """Dotted knob -> values within which arms are compared, never across (worlds, models, data sets). Axes of
    `scientific` that change the model or the examples are blocks too."""
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    """Seeds; arms with one seed share data order, dropout and adapter initialisation."""
    controls: list[Control] = Field(default_factory=list[Control])
    """Control arms."""
    decision: Decision = Decision()
    """The rule for the verdict."""

    @model_validator(mode="before")
    @classmethod
    def _no_default_axis(cls, values: object) -> object:
        """Without `scientific`, arms or a search are the whole design."""
        if not isinstance(values, Mapping):
            return values
        given = cast(Mapping[str, Any], values)
        search: Any = given.get("search")
        searches = isinstance(search, Mapping) and bool(cast(Mapping[str, Any], search).get("knob"))
        return {"scientific": {}, **given} if given.get("arms") or searches else given

    @model_validator(mode="after")
    def _stages_fit(self) -> "StudyConfig":
        if self.search.knob and (self.scientific or self.arms):
            raise ValueError(
                "study.search is the whole design of its study, got scientific or arms beside it. Give other knobs "
                "under blocks, or make a study of their own."
            )
        if self.confirm_seeds and (matched := [control.match for control in self.controls if control.match]):
            raise ValueError(
                "a control of a study with confirm_seeds is the twin of the arm that will be chosen, got match "
                f"{matched[0]}. Leave match out."
            )
        if self.search.knob and self.search.refine and not self.confirm_seeds:
            raise ValueError(
                "study.search with refine picks the best of what it saw, so the pick must be confirmed on fresh seeds: "
                "give study.confirm_seeds, such as [100, 101, 102, 103, 104], or refine: 0."
            )
        stages = {"seeds": self.seeds, "tune_seeds": self.tune_seeds, "confirm_seeds": self.confirm_seeds}
        for name, seeds in stages.items():
            if len(set(seeds)) != len(seeds) or any(seed < 0 for seed in seeds):
                raise ValueError(f"study.{name} must be different whole numbers >= 0, got {seeds}.")
        used = {*self.seeds, *(self.tune_seeds if self.nuisance else ())}
        if again := sorted(used & set(self.confirm_seeds)):
            raise ValueError(f"study.confirm_seeds must be untouched, got {again}, which other stages use.")
        return self


class Recipe(Knobs):
    """One question, and all that is needed to answer it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the study's folder."""
    question: str = ""
    """What the study asks, in a sentence; heads the report."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    noise: NoiseConfig = NoiseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    study: StudyConfig = StudyConfig()
