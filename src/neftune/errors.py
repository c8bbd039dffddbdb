"""Every error this package raises on purpose.

    NeftuneError
    ├── InputError            what the caller gave is wrong (also a ValueError); exit code 2
    │   ├── ConfigError       a recipe or an option
    │   ├── DataError         a data file, a line, an example, a split
    │   ├── ModelError        a model or tokenizer that cannot be used as asked
    │   ├── UnknownNameError  a name that is in no registry
    │   └── MissingExtraError an optional dependency that is not installed
    └── WorkError             the work was well described and failed (also a RuntimeError); exit code 1
        ├── NoiseError        a configured noise that did not, or cannot, reach the model
        ├── DivergedError     the loss became NaN or infinite
        ├── StoreError        a result that cannot be written or read
        ├── StudyError        a study whose later stages have nothing to rest on
        └── EndpointError     a model server that cannot be reached, or will not answer

A message says what was required, what was received and what to do, in that order.
"""


class NeftuneError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 1


class InputError(NeftuneError, ValueError):
    """What the caller gave is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A recipe or an option is wrong."""


class DataError(InputError):
    """A data file, a line of it, an example or a split is wrong."""


class ModelError(InputError):
    """A model or tokenizer cannot be used as asked."""


class UnknownNameError(InputError, KeyError):
    """A name is in no registry."""

    def __str__(self) -> str:
        # KeyError would print the repr of the message.
        return str(self.args[0])


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed."""


class WorkError(NeftuneError, RuntimeError):
    """The work was well described and failed."""


class NoiseError(WorkError):
    """A configured noise did not, or cannot, reach the model."""


class DivergedError(WorkError):
    """The loss became NaN or infinite."""


class StoreError(WorkError):
    """A result cannot be written or read."""


class StudyError(WorkError):
    """A study's later stages have nothing to rest on."""


class EndpointError(WorkError):
    """A model server cannot be reached, or will not answer."""
