"""Runs without training: what surrounds them (plan, claim, store, read back, report) at any number."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from neftune.config import Recipe
from neftune.recipe import validate
from neftune.records import PARTS, Answer, Failure, HistoryPoint, PlannedRun, RealisedNoise, RunRecord, Scores
from neftune.study.store import Store
from tests.tiny import make_recipe

EXAMPLES = {"train": 4, "heldout": 16, "test": 16}


def stub_record(planned: PlannedRun) -> RunRecord:
    """A small valid record: 36 examples scored, 20 of them answered, its numbers drawn by the run's id."""
    rng = np.random.default_rng(zlib.crc32(planned.run_id.encode()))
    alpha = float(planned.config["noise"]["alpha"] or 0.0)
    losses = {part: 2.0 - 0.01 * alpha + 0.1 * rng.standard_normal(EXAMPLES[part]) for part in PARTS}
    return RunRecord(
        run_id=planned.run_id,
        config=planned.config,
        history=tuple(HistoryPoint(s, s / 4, {"loss": 3 - s / 10, "clean_heldout_loss": 3 - s / 9}) for s in range(9)),
        noise=RealisedNoise(alpha, alpha, alpha, 0.3, 24, 300, 9) if alpha else None,
        alpha=alpha,
        counts={"read": 64, "steps": 8, "train_tokens": 300},
        answers={part: tuple(_answer(part, i, rng) for i in range(EXAMPLES[part])) for part in ("train", "test")},
        scores={
            part: Scores(
                tuple(f"{part}{i}" for i in range(EXAMPLES[part])),
                {"loss": tuple(map(float, losses[part])), "words": tuple(map(float, rng.poisson(9, EXAMPLES[part])))},
            )
            for part in PARTS
        },
        versions={"neftune": "0", "code": "stub"},
        seconds={"training": 1.0},
        data_fingerprint="stub",
        tags={f"test{i}": {"half": "open" if i % 2 else "closed"} for i in range(EXAMPLES["test"])},
    )


def perform_stub(root: Path, planned: PlannedRun) -> Failure | None:
    """As `neftune.study.worker.perform`, without training."""
    store = Store(root)
    with store.claim(planned.run_id):
        if not store.is_done(planned.run_id):
            store.write_progress(planned.run_id, {"stage": "training", "step": 8, "num_steps": 8})
            store.write_result(stub_record(planned))
    return None


def stub_recipe(folder: Path, *, arms: int, seeds: int, blocks: int, **changes: object) -> Recipe:
    """A recipe of arms x seeds x blocks runs on a checkpoint and data of a few kilobytes."""
    values: dict[str, Any] = make_recipe(folder, **changes)
    values["study"] = {
        "scientific": {"noise.alpha": list(range(arms))},
        "blocks": {"train.learning_rate": [1e-4 * (1 + i) for i in range(blocks)]} if blocks > 1 else {},
        "seeds": list(range(seeds)),
    }
    return validate(Recipe, values, source="stub")


def _answer(part: str, number: int, rng: np.random.Generator) -> Answer:
    words = " ".join(rng.choice(["the", "hat", "is", "red", "blue", "door"], size=8))
    return Answer(f"{part}{number}", f"what colour is the hat {number} ?", words, "the hat is red .", 8, True)
