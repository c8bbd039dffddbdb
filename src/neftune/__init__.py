"""NEFTune's noise, exact in every layout, and the study that says whether it helps.

>>> import neftune
>>> handle = neftune.attach(model, alpha=5)   # doctest: +SKIP

Names are resolved on first use, so that ``import neftune`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

from neftune._version import __version__

if TYPE_CHECKING:
    from neftune.integrations.transformers import NoiseCallback
    from neftune.noise.attach import attach
    from neftune.noise.audit import Audit, audit
    from neftune.noise.handle import NoiseHandle
    from neftune.noise.perturb import perturb
    from neftune.noise.ratio import alpha_for, noise_to_signal

_HOMES = {
    "Audit": "neftune.noise.audit",
    "NoiseCallback": "neftune.integrations.transformers",
    "NoiseHandle": "neftune.noise.handle",
    "alpha_for": "neftune.noise.ratio",
    "attach": "neftune.noise.attach",
    "audit": "neftune.noise.audit",
    "noise_to_signal": "neftune.noise.ratio",
    "perturb": "neftune.noise.perturb",
}

__all__ = [
    "Audit",
    "NoiseCallback",
    "NoiseHandle",
    "__version__",
    "alpha_for",
    "attach",
    "audit",
    "noise_to_signal",
    "perturb",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'neftune' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
