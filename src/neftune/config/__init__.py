"""Every knob: YAML in, dotted overrides, one resolved file out.

A recipe is a `Recipe`. Without its `study` section it is a `RunConfig`: what determines one run.
"""

from neftune.config.run import (
    LATER,
    BenchmarksConfig,
    DataConfig,
    EvaluateConfig,
    Knobs,
    KnobValue,
    LoraConfig,
    ModelConfig,
    NoiseConfig,
    RunConfig,
    Strength,
    TrainConfig,
)
from neftune.config.study import Control, Decision, Recipe, Search, StudyConfig

__all__ = [
    "LATER",
    "BenchmarksConfig",
    "Control",
    "DataConfig",
    "Decision",
    "EvaluateConfig",
    "KnobValue",
    "Knobs",
    "LoraConfig",
    "ModelConfig",
    "NoiseConfig",
    "Recipe",
    "RunConfig",
    "Search",
    "Strength",
    "StudyConfig",
    "TrainConfig",
]
