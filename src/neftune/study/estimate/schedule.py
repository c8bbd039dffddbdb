"""How long runs take on several slots, when each starts as soon as a slot and what it waits for are free."""

import heapq
from collections.abc import Mapping, Sequence

from neftune.errors import ConfigError
from neftune.records import PlannedRun


def wall_clock(
    runs: Sequence[PlannedRun], seconds: Mapping[str, float], *, slots: int, takes: Mapping[str, int] | None = None
) -> float:
    """Seconds until the last of ``runs`` is done.

    Args:
        runs: In the order in which they are started; one with `after` waits for that run where it is among them.
        seconds: Of each run by its id.
        slots: Processes at a time.
        takes: Of each run, the slots that it takes; None for one each. A run that must wait for room holds up those
            behind it, as the executors do.

    Raises:
        ConfigError: A run takes more slots than there are.
    """
    waiting = list(runs)
    ids = {run.run_id for run in waiting}
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
    now, free = 0.0, slots
    sizes = {run.run_id: 1 if takes is None else takes[run.run_id] for run in waiting}
    if max(sizes.values(), default=0) > slots:
        raise ConfigError(
            f"a run of train.world_size {max(sizes.values())} needs as many processors, got {slots}. "
            "Give --gpus (on this machine's CPU --workers) as many, or a smaller train.world_size."
        )
    while ready or running:
        while ready and sizes[ready[0][1]] <= free:
            _, name = heapq.heappop(ready)
            free -= sizes[name]
            heapq.heappush(running, (now + seconds[name], name))
        now, name = heapq.heappop(running)
        free += sizes[name]
        for run in blocked.pop(name, ()):
            heapq.heappush(ready, (places[run.run_id], run.run_id))
    return now
