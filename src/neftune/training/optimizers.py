"""Optimisers from well-kept libraries, by the names that transformers' Trainer knows them under.

To add one, register an `Optimizer`.
"""

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from neftune.config import TrainConfig
from neftune.errors import ConfigError, MissingExtraError
from neftune.registry import Registry


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One optimiser.

    Attributes:
        summary: What it is, its source, and what to mind, in a line.
        optim: Its name in transformers; None for the Trainer's default.
        library: The distribution that it comes from beyond torch and transformers; None for none.
        schedules_itself: Whether it takes the place of a learning-rate schedule, warm-up included.
    """

    summary: str
    optim: str | None
    library: str | None = None
    schedules_itself: bool = False


optimizers: Registry[Optimizer] = Registry("optimizer")

optimizers.register("adamw")(Optimizer("AdamW (arXiv 1711.05101), torch's: the paper's optimiser.", None))
optimizers.register("lion")(
    Optimizer(
        "Lion (arXiv 2302.06675), bitsandbytes': wants 3 to 10 times less learning rate than AdamW, and more decay.",
        "lion_32bit",
        library="bitsandbytes",
    )
)
optimizers.register("adafactor")(
    Optimizer("Adafactor (arXiv 1804.04235), transformers': factored second moments, the given rate.", "adafactor")
)
optimizers.register("schedule_free_adamw")(
    Optimizer(
        "Schedule-free AdamW (arXiv 2405.15682): averages instead of a schedule; needs train.schedule constant.",
        "schedule_free_adamw",
        library="schedulefree",
        schedules_itself=True,
    )
)
optimizers.register("adamw_8bit")(
    Optimizer(
        "AdamW with 8-bit states (arXiv 2110.02861), bitsandbytes'; small tensors and embeddings keep 32 bits.",
        "adamw_bnb_8bit",
        library="bitsandbytes",
    )
)


def check_optimizer(train: TrainConfig) -> Optimizer:
    """The optimiser of a run, which can be made here.

    Raises:
        UnknownNameError: It is not registered.
        MissingExtraError: Its library is not installed.
        ConfigError: It schedules itself, and a schedule is asked for.
    """
    found = optimizers[train.optimizer]
    require_library(found.library, f"train.optimizer {train.optimizer!r}")
    if found.schedules_itself and train.schedule != "constant":
        raise ConfigError(
            f"train.optimizer {train.optimizer!r} takes the place of a schedule, got train.schedule "
            f"{train.schedule!r}. Set --train.schedule constant; train.warmup_ratio is obeyed."
        )
    return found


def require_library(library: str | None, what: str) -> None:
    """Refuse what needs a library that is not installed.

    Raises:
        MissingExtraError: It is not.
    """
    if library is not None and importlib.util.find_spec(library) is None:
        raise MissingExtraError(f"{what} needs {library}, which is not installed. Run: pip install 'neftune[optim]'")


_SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "cosine_with_min_lr": "cosine_with_min_lr",
    "wsd": "warmup_stable_decay",
}
_MIN_LR_RATIO, _DECAY_RATIO = 0.1, 0.2


def learning_rate_arguments(train: TrainConfig, num_steps: int) -> dict[str, Any]:
    """TRL's arguments for the optimiser and its learning rate.

    Args:
        train: Its optimiser, schedule and their settings.
        num_steps: Optimiser steps of the whole run.
    """
    optimizer = check_optimizer(train)
    arguments: dict[str, Any] = {} if optimizer.optim is None else {"optim": optimizer.optim}
    arguments |= {"lr_scheduler_type": _SCHEDULES[train.schedule], "warmup_steps": train.warmup_ratio}
    if optimizer.schedules_itself:
        # It takes the number of warm-up steps as it stands, and a share of them would be none.
        warmup_steps = math.ceil(num_steps * train.warmup_ratio)
        return arguments | {"lr_scheduler_type": "constant", "warmup_steps": warmup_steps}
    if train.schedule == "cosine_with_min_lr":
        ratio = _MIN_LR_RATIO if train.min_lr_ratio is None else train.min_lr_ratio
        arguments["lr_scheduler_kwargs"] = {"min_lr_rate": ratio}
    if train.schedule == "wsd":
        share = _DECAY_RATIO if train.decay_ratio is None else train.decay_ratio
        decay_steps = max(1, round(num_steps * share))
        arguments["lr_scheduler_kwargs"] = {"num_decay_steps": decay_steps, "min_lr_ratio": train.min_lr_ratio or 0.0}
    return arguments


@contextmanager
def nothing_remembered(train: TrainConfig) -> Iterator[None]:
    """Bitsandbytes notes globally, by the address of a tensor, which ones keep 32 bits; it forgets them here.

    Else a later run, whose tensors may lie at the same addresses, would take over what an earlier one noted.
    """
    if optimizers[train.optimizer].library != "bitsandbytes":
        yield
        return
    from bitsandbytes.optim.optimizer import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    manager.initialize()
    try:
        yield
    finally:
        manager.initialize()


@contextmanager
def averaged_weights(optimizer: Any) -> Iterator[None]:
    """The weights that a schedule-free optimiser would hand over; afterwards those it trains, to the bit."""
    if not schedules_itself(optimizer):
        yield
        return
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    trained = [one.detach().clone() for one in parameters]
    modes = [group["train_mode"] for group in optimizer.param_groups]
    optimizer.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for one, value in zip(parameters, trained, strict=True):
                one.copy_(value)
        for group, mode in zip(optimizer.param_groups, modes, strict=True):
            group["train_mode"] = mode


def schedules_itself(optimizer: Any) -> bool:
    """Whether a live optimiser trains other weights than it hands over."""
    return optimizer is not None and any("train_mode" in group for group in optimizer.param_groups)
