"""What every test may ask for."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two test processes with two threads each on two cores cost many times the work; and one thread is what studies use.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and checkpoints beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared (real data and checkpoints), which this clone does not have")
    return SHARED
