"""What a study of many runs costs around its training: planning, claiming, storing, reading back, reporting.

Runs are stubs (`tests/stub_runs.py`): a worker claims each, writes a small valid record, and trains nothing. Everything
else is the package's own code, in the order of `neftune study`. Prints JSON: wall and CPU seconds of every step for
studies of 100, 1,000 and 10,000 runs, and milliseconds a run.

    python -m benchmarks.study_scale > benchmarks/results/study_scale_<hardware>_<yyyymm>.json
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neftune.analysis.choosing import HeldOut
from neftune.cli.listing import listing
from neftune.records import StudyResult
from neftune.report.page import write_report
from neftune.report.summary import summary_data, terminal_summary
from neftune.study.executors import Resources, executors
from neftune.study.stages import plan_so_far
from neftune.study.standing import read_standing
from neftune.study.store import Store
from neftune.study.study import make_planner
from neftune.study.variants import with_variants
from tests.stub_runs import perform_stub, stub_recipe

SHAPES = {100: (20, 5, 1), 1_000: (20, 50, 1), 10_000: (20, 50, 10)}
"""Runs -> arms, seeds, blocks."""


class Clock:
    """Wall and CPU seconds of each step; those of worker processes count once they have ended."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        wall, cpu = time.perf_counter(), _cpu()
        yield
        self.steps[name] = {"wall": round(time.perf_counter() - wall, 3), "cpu": round(_cpu() - cpu, 3)}
        print(f"{name}: {self.steps[name]}", file=sys.stderr, flush=True)


def measure(runs: int, folder: Path) -> dict[str, object]:
    """Every step of one study."""
    arms, seeds, blocks = SHAPES[runs]
    recipe, clock = stub_recipe(folder, arms=arms, seeds=seeds, blocks=blocks), Clock()
    store, values = Store(folder / "runs"), recipe.model_dump(mode="json")

    def results(planned: object) -> StudyResult:
        return store.result(values, tuple(planned))  # type: ignore[arg-type]

    with clock.step("plan"):
        so_far = plan_so_far(recipe, make_planner(recipe), results, HeldOut())
    with clock.step("write the plan"):
        store.write_study(recipe.name, values, so_far.planned)
    with clock.step("claim and store, 2 workers"):
        executors["local"](
            store, so_far.planned, resources=Resources(workers=2), watch=lambda _: None, perform=perform_stub
        )
    with clock.step("start again, all done"):
        executors["local"](
            store, so_far.planned, resources=Resources(workers=2), watch=lambda _: None, perform=perform_stub
        )
    with clock.step("status"):
        read_standing(store, recipe.name)
    with clock.step("list"):
        listing("studies", store.root)
    with clock.step("read back"):
        result = with_variants(store.read_study(recipe.name))
    assert len(result.records) == runs, f"{len(result.records)} of {runs} runs are done"
    steps: dict[str, Callable[[], object]] = {
        "effects, verdict and terminal summary": lambda: terminal_summary(result),
        "summary.json": lambda: summary_data(result),
        "page": lambda: write_report(result, store.study_folder(recipe.name) / "report.html"),
    }
    for name, work in steps.items():
        with clock.step(name):
            work()
    megabytes = (store.study_folder(recipe.name) / "report.html").stat().st_size / 1e6
    total = {kind: round(sum(step[kind] for step in clock.steps.values()), 2) for kind in ("wall", "cpu")}
    each = {kind: round(1000 * seconds / runs, 3) for kind, seconds in total.items()}
    shape = {"runs": runs, "arms": arms, "seeds": seeds, "blocks": blocks}
    return {**shape, "steps": clock.steps, "total": total, "milliseconds_a_run": each, "page_mb": round(megabytes, 1)}


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, nargs="+", choices=SHAPES, default=list(SHAPES))
    asked = parser.parse_args().runs
    found: list[dict[str, object]] = []
    load = os.getloadavg()[0]
    for runs in asked:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(runs, Path(folder)))
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"studies": found, "machine": {**machine, "load_at_start": round(load, 1)}}, indent=1))


if __name__ == "__main__":
    main()
