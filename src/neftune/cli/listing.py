"""What `neftune list` shows."""

from importlib import import_module
from pathlib import Path
from typing import Any

from neftune.errors import ConfigError
from neftune.registry import unknown_name
from neftune.study.store import Store

REGISTRIES = {
    "distributions": "neftune.noise.distributions:distributions",
    "schedules": "neftune.noise.schedules:schedules",
    "regularizers": "neftune.training.regularizers:regularizers",
    "optimizers": "neftune.training.optimizers:optimizers",
    "formats": "neftune.data.formats:formats",
    "data-sets": "neftune.data.datasets:data_sets",
    "templates": "neftune.data.prompts:templates",
    "variants": "neftune.evaluation.variants:variants",
    "metrics": "neftune.evaluation.text_metrics:text_metrics",
    "judges": "neftune.evaluation.judges:judges",
    "pairwise-judges": "neftune.evaluation.preference.judging:pairwise_judges",
    "executors": "neftune.study.executors:executors",
}
"""What can be named in a recipe, and where it is registered."""


def listing(what: str, root: Path) -> list[dict[str, Any]]:
    """Rows about studies, runs or one registry's entries.

    Raises:
        ConfigError: ``what`` is none of them.
    """
    if what == "studies":
        return _studies(root)
    if what == "runs":
        return _runs(root)
    if what in REGISTRIES:
        module, name = REGISTRIES[what].split(":")
        entries = getattr(import_module(module), name)
        return [{"name": key, "what it is": _first_line(entry)} for key, entry in entries.items()]
    raise ConfigError(unknown_name("what is listed", what, ["studies", "runs", *REGISTRIES]))


def _studies(root: Path) -> list[dict[str, Any]]:
    store = Store(root, read_only=True)
    rows: list[dict[str, Any]] = []
    for name in store.studies():
        planned = {run.run_id for run in store.read_plan(name).planned}
        done = {run_id for run_id in planned if store.is_done(run_id)}
        failed = sum(store.has_failed(run_id) for run_id in planned - done)
        report = (store.study_folder(name) / "report.html").is_file()
        rows.append(
            {
                "study": name,
                "runs": len(planned),
                "done": len(done),
                "failed": failed,
                "report": "yes" if report else "no",
            }
        )
    return rows


def _runs(root: Path) -> list[dict[str, Any]]:
    """A row for every run folder; what an unfinished one is stands in the plan that names it."""
    store = Store(root, read_only=True)
    planned = {run.run_id: run.config for name in store.studies() for run in store.read_plan(name).planned}
    rows: list[dict[str, Any]] = []
    for run_id in store.runs():
        done = store.is_done(run_id)
        state = "done" if done else "failed" if store.has_failed(run_id) else "unfinished"
        record = store.read_result(run_id) if done else None
        config = record.config if record else planned.get(run_id)
        rows.append(
            {
                "run": run_id,
                "state": state,
                "alpha": f"{record.alpha:.4g}" if record else "",
                "seed": config["seed"] if config else "",
                "model": config["model"]["path"] if config else "",
                "data": config["data"]["source"] if config else "",
            }
        )
    return rows


def _first_line(entry: object) -> str:
    text = getattr(entry, "summary", None) or getattr(entry, "__doc__", None) or ""
    return str(text).strip().split("\n")[0]
