"""What every executor is called with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from neftune.records import Failure, PlannedRun
from neftune.study.executors.resources import Resources
from neftune.study.executors.status import Status
from neftune.study.store import Store
from neftune.study.worker import perform

Watch = Callable[[Status], None]
"""Called about twice a second, and whenever a run starts or ends."""

Perform = Callable[[Path, PlannedRun], Failure | None]
"""Does one run in a worker process, given the store's folder; a function at the top of a module, so that the worker
finds it by its name."""


class Executor(Protocol):
    """Performs runs and returns once each is done or failed."""

    def __call__(
        self,
        store: Store,
        runs: Sequence[PlannedRun],
        *,
        resources: Resources,
        watch: Watch,
        perform: Perform = perform,
    ) -> Status:
        """Perform ``runs``.

        Args:
            store: Where results go; a run found done there is not performed again.
            runs: In order of preference; a run with `after` starts once that one is done.
            resources: What the runs may use.
            watch: Told where the runs stand.
            perform: What does one run.

        Raises:
            ConfigError: The resources are not there, or are none that this executor can give.
        """
        ...
