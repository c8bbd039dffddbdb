"""Studies of designs for the report: a factorial, a sweep, and one that tunes, searches and confirms."""

import random
from functools import cache

from neftune.config import Recipe, RunConfig
from neftune.records import StudyResult
from tests.staged import play
from tests.synthetic_designs import Luck, make_design, product

CUBE = {"noise.alpha": [0, 5.0], "train.weight_decay": [0.0, 0.1], "model.lora.dropout": [0.0, 0.3]}
DOSES = [0, 0.1, 1.0, 10.0, 100.0]
LOST = "alpha=5.0, weight_decay=0.1, dropout=0.3"


@cache
def factorial_study() -> StudyResult:
    """A 2 x 2 x 2 in two worlds in which noise and weight decay act on each other; one arm has failed."""

    def effect(setting):
        noise, decay, dropout = (float(bool(setting[knob])) for knob in CUBE)
        return -0.1 * noise + 0.05 * decay + 0.1 * dropout + 0.2 * noise * decay

    failed = [(LOST, seed) for seed in (0, 1, 2)]
    return make_design(product(CUBE), effect, blocks=("world=0", "world=1"), failed=failed)


@cache
def dose_study() -> StudyResult:
    """A sweep whose best doses are 1 and 10, alike."""
    losses = {0: 0.0, 0.1: -0.05, 1.0: -0.3, 10.0: -0.3, 100.0: 0.5}
    settings = product({"noise.alpha": DOSES})
    return make_design(settings, lambda s: losses[s["noise.alpha"]], seeds=range(5), luck=Luck(0.02, 0.02, 0.05))


STAGED = {
    "name": "staged",
    "study": {
        "search": {"knob": "noise.alpha", "low": 0.1, "high": 100, "points": 4, "refine": 1},
        "nuisance": {"train.learning_rate": [1e-4, 3e-4, 1e-3]},
        "tune_seeds": [50, 51],
        "seeds": [0, 1, 2],
        "confirm_seeds": [10, 11, 12, 13],
        "blocks": {"data.seed": [0, 1]},
    },
}


def _loss(config: RunConfig) -> float | None:
    alpha, rate = config.noise.alpha or 0, config.train.learning_rate
    if alpha == 100 and rate == 1e-3:
        return None
    luck = random.Random(f"{alpha} {rate} {config.seed} {config.data.seed}").gauss(0, 0.01)
    tuned = {1e-4: 0.1, 3e-4: 0.0, 1e-3: 0.05} if alpha else {1e-4: 0.1, 3e-4: 0.05, 1e-3: 0.0}
    return 1 - 0.1 * (1 < alpha < 20) + 0.3 * (alpha > 50) + tuned[rate] + luck


@cache
def staged_study(*, until: str = "") -> StudyResult:
    """A study that tunes the learning rate, searches alpha and confirms; or its state when a stage is to come."""
    recipe = Recipe.model_validate(STAGED)
    states, result = play(recipe, _loss)
    if not until:
        return result
    state = next(one for one in states if until in one.to_come)
    done = {run.run_id: result.records[run.run_id] for run in state.planned if run.run_id in result.records}
    return StudyResult(result.recipe, state.planned, done, {}, to_come=state.to_come, notes=state.notes)
