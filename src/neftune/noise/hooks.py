"""Hooks that stay behind when their module is copied or pickled, so that a copy is a model without noise."""

import contextlib
from collections.abc import Callable
from typing import Any

from torch import nn


class Hook:
    """A module hook of this package.

    Args:
        function: What torch calls, with the arguments of the kind of hook it is registered as.
        owner: Whose noise it adds; None for hooks that only watch.
    """

    __slots__ = ("_function", "owner")

    def __init__(self, function: Callable[..., Any], *, owner: object) -> None:
        self._function = function
        self.owner = owner

    def __call__(self, *args: Any) -> Any:
        """What the function returns."""
        return self._function(*args)

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        return contextlib.nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        # A callable of the standard library that takes anything and does nothing: a pickled model opens anywhere.
        return getattr, (contextlib.nullcontext(), "__exit__")


def hook_owner(module: nn.Module) -> object | None:
    """Whose noise a module carries; None without any."""
    hooks: Any = vars(module)["_forward_hooks"]
    return next((hook.owner for hook in hooks.values() if isinstance(hook, Hook) and hook.owner is not None), None)
