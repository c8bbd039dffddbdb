"""Do two local Ray nodes finish a CPU study as fast as the process pool does?

Twelve tiny runs (alpha x seed), two at a time, one thread each, by the executor `local` and by `ray` on two one-core
nodes, in turn, several rounds. Start-up is the time until the first run has started, apart from the rest.

    python -m benchmarks.executors --rounds 3
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from neftune.analysis.choosing import HeldOut
from neftune.config import Recipe
from neftune.recipe import validate
from neftune.study.executors import Resources, Status
from neftune.study.study import run_study
from tests.tiny import make_recipe

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the rounds and store what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=20.0, help="length of a run")
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as folder:
        values = make_recipe(Path(folder))
        values["train"] = {**values["train"], "epochs": options.epochs}
        values["study"] = {"scientific": {"noise.alpha": [0, 5, 10]}, "seeds": [0, 1, 2, 3]}
        recipe = validate(Recipe, values, source="benchmark")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        rounds: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
        try:
            for number in range(options.rounds):
                for executor in sorted(rounds, reverse=bool(number % 2)):
                    address = cluster.address if executor == "ray" else None
                    out = Path(folder, f"{executor}{number}")
                    rounds[executor].append(_timed(recipe, out, executor, address))
                    print(executor, rounds[executor][-1], flush=True)
        finally:
            cluster.shutdown()
    _store(rounds, options)


def _timed(recipe: Recipe, root: Path, executor: str, address: str | None) -> dict[str, float]:
    """Seconds until both workers are at work, and from there to the end."""
    begun = time.perf_counter()
    both_at_work: list[float] = []

    def watch(status: Status) -> None:
        if not both_at_work and len(list(root.glob("runs/*/progress.json"))) >= 2:
            both_at_work.append(time.perf_counter())

    resources = Resources(workers=2, gpus_per_run=0, address=address)
    result = run_study(recipe, root=root, choosing=HeldOut(), executor=executor, resources=resources, watch=watch)
    assert len(result.records) == 12, result.failures
    ended = time.perf_counter()
    return {"start_up": both_at_work[0] - begun, "work": ended - both_at_work[0], "whole": ended - begun}


def _store(rounds: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    medians = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]} for name, found in rounds.items()
    }
    record: dict[str, Any] = {
        "question": __doc__.split("\n", maxsplit=1)[0] if __doc__ else "",
        "rounds": rounds,
        "medians": medians,
        "ray_over_local": {key: medians["ray"][key] / medians["local"][key] for key in medians["local"]},
        "config": {**vars(options), "runs": 12, "workers": 2, "threads": 1},
        "versions": {name: version(name) for name in ("torch", "ray", "transformers", "neftune")},
        "hardware": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg(),
    }
    path = RESULTS / f"executors_cpu{os.cpu_count()}_{datetime.now(UTC):%Y%m}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({"medians": medians, "ray_over_local": record["ray_over_local"]}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
