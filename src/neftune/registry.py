"""Registry: named entries, one decorator to add, did-you-mean on a miss."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from neftune.errors import UnknownNameError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from names to entries that modules add to at import.

    Args:
        kind: What one entry is, as error messages call it ("distribution", "text metric").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry under ``name``.

        Raises:
            ValueError: The name is taken.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} names must be unique, got {name!r} a second time.")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(unknown_name(self.kind, name, list(self._entries))) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def unknown_name(kind: str, name: object, known: list[str]) -> str:
    """The message for a name that is not among ``known``, with the nearest ones first."""
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{kind} must be one of {', '.join(sorted(known))}; got {name!r}.{hint}"
