"""How long runs take on several slots, when each starts as soon as a slot and what it waits for are free."""

import heapq
from collections.abc import Mapping, Sequence

from neftune.records import PlannedRun


def wall_clock(runs: Sequence[PlannedRun], seconds: Mapping[str, float], *, slots: int) -> float:
    """Seconds until the last of ``runs`` is done.

    Args:
        runs: In the order in which they are started; one with `after` waits for that run where it is among them.
        seconds: Of each run by its id.
        slots: Runs at a time.
    """
    waiting = list(runs)
    ids = {run.run_id for run in waiting}
    done: dict[str, float] = {}
    running: list[tuple[float, str]] = []
    blocked: dict[str, list[PlannedRun]] = {}
    ready: list[tuple[int, str]] = []
    for place, run in enumerate(waiting):
        if run.after in ids:
            blocked.setdefault(str(run.after), []).append(run)
        else:
            ready.append((place, run.run_id))
    places = {run.run_id: place for place, run in enumerate(waiting)}
    heapq.heapify(ready)
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[name], name))
        now, name = heapq.heappop(running)
        done[name] = now
        for run in blocked.pop(name, ()):
            heapq.heappush(ready, (places[run.run_id], run.run_id))
    return now
