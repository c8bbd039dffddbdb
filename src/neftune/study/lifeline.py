"""Processes that end when the one that started them is gone: a kill leaves nobody behind."""

import os
import threading
import time

_SECONDS_BETWEEN_LOOKS = 0.5


def end_with(parent: int) -> None:
    """Let this process end soon after its parent does, whatever it is doing then.

    Args:
        parent: Process id of the parent, which may be gone already.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
