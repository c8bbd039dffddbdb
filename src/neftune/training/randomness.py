"""Random streams that never touch each other, and a trainer that leaves the caller's random state alone."""

import contextlib
import hashlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one named stream of a run: data order, dropout, adapters, noise.

    Streams are hashed apart because trainers add the epoch to the seed: with the plain seed, the data order of
    seed 0 in its second epoch would be that of seed 1 in its first.

    Args:
        seed: The run's seed.
        stream: What is drawn from it.

    Returns:
        An integer in [0, 2**31).
    """
    digest = hashlib.sha256(f"{stream}\0{seed}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Puts Python's, NumPy's and torch's random states back as they were on entry."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the trainer's libraries draw from the global generator
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def random_states() -> list[torch.Tensor]:
    """The states of torch's generators that a forward pass draws from: the CPU's and the current GPU's."""
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_gpu else [])]


def set_random_states(states: list[torch.Tensor]) -> None:
    """Puts them where `random_states` found them, so that dropout draws the same masks again."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


@contextlib.contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Makes torch choose algorithms that give the same bits every time.

    On a GPU an operation without such an algorithm warns and runs; on the CPU it is an error.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    fill: Any = torch.utils.deterministic
    filled = fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # Filling costs a pass over every new tensor and only helps code that reads memory it never wrote.
    fill.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warned)
        fill.fill_uninitialized_memory = filled
