"""The examples of a run where they lie here, and what is known of a named data set's lengths where they do not."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neftune.config import DataConfig
from neftune.data.datasets import data_sets
from neftune.errors import ConfigError, DataError
from neftune.records import DataSet
from neftune.study.data import load_run_data


@dataclass(frozen=True, slots=True)
class Characters:
    """How long the examples of a data set are, in characters of the prompt template that the paper used.

    Attributes:
        documents, prompts: At `SHARES` of the examples, ascending.
        measured: On what.
    """

    documents: tuple[int, ...]
    prompts: tuple[int, ...]
    measured: str


SHARES = (*(place / 20 for place in range(20)), 0.98, 0.99, 0.995, 0.999, 1.0)
"""The shortest, every twentieth, and more of the long tail, which a mean hangs on."""

CHARACTERS = {
    "alpaca": Characters(
        (157, 234, 262, 284, 304, 322, 339, 359, 382, 410, 446, 487, 531, 573, 617, 663, 714, 777, 859, 1004, 1248,
         1466, 1693, 2387, 4499),
        (148, 174, 180, 184, 188, 192, 195, 199, 203, 208, 215, 226, 251, 268, 280, 290, 302, 315, 335, 376, 456, 542,
         631, 849, 2732),
        "all 51,974 examples",
    ),
    "evol-instruct": Characters(
        (183, 361, 609, 875, 1049, 1250, 1408, 1564, 1704, 1895, 2044, 2187, 2368, 2557, 2744, 2982, 3243, 3555, 4060,
         4822, 5852, 6637, 7487, 8642, 9562),
        (157, 196, 213, 255, 303, 356, 400, 446, 487, 531, 580, 621, 669, 713, 764, 830, 895, 989, 1159, 1420, 1847,
         2175, 2473, 3371, 4043),
        "a sample of 1,981 examples",
    ),
    "sharegpt": Characters(
        (230, 1082, 1418, 1767, 2307, 2905, 3433, 4162, 5059, 5595, 6232, 6703, 7143, 7685, 8244, 8761, 9215, 9785,
         10349, 11172, 12325, 13479, 15057, 16137, 16450),
        (132, 214, 248, 324, 540, 1277, 1827, 2561, 3242, 3874, 4416, 4955, 5398, 5998, 6467, 7071, 7536, 7992, 8608,
         9365, 10382, 11147, 13693, 15594, 15715),
        "a sample of 993 conversations",
    ),
    "lima": Characters(
        (228, 471, 706, 931, 1142, 1366, 1504, 1632, 1768, 1917, 2025, 2173, 2335, 2551, 2876, 3323, 4002, 5069, 6924,
         9099, 11101, 12240, 13909, 17432, 17942),
        (151, 164, 169, 174, 180, 186, 193, 201, 212, 223, 238, 253, 279, 318, 355, 396, 485, 616, 774, 1057, 2428,
         3107, 4001, 7702, 7979),
        "all 1,029 examples",
    ),
}  # fmt: skip
"""Measured on the published files, special tokens left out."""

MEAN_CHARACTERS = {"open-platypus": 1235}
"""Where the file was not at hand: 30,776,452 bytes in 24,926 rows, as the hub's page of the data set says."""

_SPREAD = "evol-instruct"
"""Whose spread is taken where only a mean is known."""


@dataclass(frozen=True, slots=True)
class PublishedLengths:
    """Lengths in tokens where there is no text to count.

    Attributes:
        num_train, num_heldout, num_test: Examples.
        document_quantiles, prompt_quantiles: In tokens, at `SHARES`.
        evidence: What they rest on.
    """

    num_train: int
    num_heldout: int
    num_test: int
    document_quantiles: tuple[float, ...]
    prompt_quantiles: tuple[float, ...]
    evidence: str

    def documents(self, number: int) -> NDArray[np.int64]:
        """So many documents, ascending."""
        return _spread(self.document_quantiles, number)

    def prompts(self, number: int) -> NDArray[np.int64]:
        """So many prompts, ascending."""
        return _spread(self.prompt_quantiles, number)


def examples_at_hand(data: DataConfig) -> DataSet | None:
    """The run's examples; None where they would have to be downloaded.

    Raises:
        DataError: Data that is here is broken, or holds too little.
    """
    if data.source == "microworld" or Path(data.source).expanduser().exists():
        return None if _lacks_prompts(data) else load_run_data(data)
    try:
        with _no_download():
            return None if _lacks_prompts(data) else load_run_data(data)
    except DataError:
        if data.source in data_sets or ("/" in data.source and data.source.count("/") == 1):
            return None
        raise


def published_lengths(data: DataConfig, *, ratio: float, tokens_per_example: float | None) -> PublishedLengths:
    """Lengths from a stated mean, or from what was measured of a named data set.

    Args:
        data: Its numbers of examples are taken where they are given.
        ratio: Characters a token.
        tokens_per_example: The mean length that the user states, in tokens; None takes the data set's.

    Raises:
        ConfigError: Nothing is known of the data.
    """
    name = next((name for name, one in data_sets.items() if data.source in (name, one.hub_id)), None)
    rows = data_sets[name].num_rows - data.num_heldout - data.num_test if name else None
    number = data.num_train or rows
    if number is None or (tokens_per_example is None and name not in {*CHARACTERS, *MEAN_CHARACTERS}):
        raise ConfigError(
            f"a dry run needs the data or its size; {data.source} is not here. Say how much it is: --data.num-train "
            "NUMBER --tokens-per-example MEAN."
        )
    documents, prompts, evidence = _quantiles(name or "", ratio, tokens_per_example, data.max_length)
    note = f"; {data.test_prompts} is not here, data.num_test taken" if _lacks_prompts(data) else ""
    return PublishedLengths(
        min(number, rows) if rows else number, data.num_heldout, data.num_test, documents, prompts, evidence + note
    )


def _quantiles(
    name: str, ratio: float, stated: float | None, longest: int
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    known = CHARACTERS.get(name)
    if stated is None and known is not None:
        factor = 1 / ratio
        evidence = f"{name} ({known.measured}) at {ratio} characters a token"
    else:
        known = CHARACTERS[_SPREAD]
        mean = stated or MEAN_CHARACTERS[name] / ratio
        factor = mean / float(np.mean(_spread(known.documents, 2000)))
        given = f"{mean:g} tokens" if stated else f"{MEAN_CHARACTERS[name]:,} characters at {ratio} a token"
        evidence = f"{name or 'examples'} (a mean of {given}, spread as in {_SPREAD})"
    documents = tuple(min(float(longest), max(2.0, one * factor)) for one in known.documents)
    prompts = tuple(max(1.0, one * factor) for one in known.prompts)
    return documents, prompts, evidence


def _spread(quantiles: tuple[float, ...] | tuple[int, ...], number: int) -> NDArray[np.int64]:
    at = (np.arange(number) + 0.5) / number
    return np.ceil(np.interp(at, SHARES, quantiles)).astype(np.int64)


def _lacks_prompts(data: DataConfig) -> bool:
    return data.test_prompts is not None and not Path(data.test_prompts).expanduser().exists()


@contextlib.contextmanager
def _no_download() -> Generator[None]:
    """Keeps the hub's libraries to what their caches hold."""
    from importlib import import_module

    from huggingface_hub import constants

    settings: Any = import_module("datasets").config

    before = constants.HF_HUB_OFFLINE, settings.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = settings.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, settings.HF_HUB_OFFLINE = before
