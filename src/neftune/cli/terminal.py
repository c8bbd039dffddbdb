"""Where a command's words go: results to stdout, everything about the work to stderr."""

import sys


def say(message: str) -> None:
    """A line about the work, on stderr."""
    print(message, file=sys.stderr)  # noqa: T201


def show(message: str) -> None:
    """A result, on stdout."""
    print(message)  # noqa: T201
