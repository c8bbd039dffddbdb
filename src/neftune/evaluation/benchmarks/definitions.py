"""A task definition of lm-eval as a mapping, with the Python functions that it names; nothing is downloaded."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neftune.errors import DataError, MissingExtraError

_EXTRA = ("langdetect", "immutabledict", "nltk")
"""What IFEval's checks import; the extra `ifeval` brings them."""


def read_definition(name: str, path: Path) -> dict[str, Any]:
    """The definition in a YAML file, with what it includes.

    Args:
        name: The task, for messages.
        path: Its file.

    Raises:
        MissingExtraError: A package that the definition's functions import is not installed.
        DataError: They need word lists of NLTK that are not on this machine.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        with _no_downloads(name):
            return load_yaml(path, resolve_func=True)
    except ImportError as error:
        wanted = "'neftune[ifeval]'" if error.name in _EXTRA else str(error.name)
        raise MissingExtraError(f"{name} needs {error.name or error}: pip install {wanted}") from error


@contextlib.contextmanager
def _no_downloads(task: str) -> Iterator[None]:
    """Makes NLTK refuse to fetch what a definition's module asks for as it is imported."""
    try:
        import nltk
    except ImportError:
        yield
        return

    def refuse(name: str, *_: Any, **__: Any) -> None:
        raise DataError(
            f"{task} needs NLTK's {name}, which is not on this machine. Run python -m nltk.downloader {name} where "
            "there is a network, or set NLTK_DATA to a folder that has it."
        )

    before = nltk.download
    nltk.download = refuse
    try:
        yield
    finally:
        nltk.download = before
