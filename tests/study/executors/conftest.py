"""Ray forgets the processes that it ended, and Python says so whenever it finds them."""

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def forgotten_processes() -> Iterator[None]:
    """Find them here, so that no test elsewhere fails with the warning."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
