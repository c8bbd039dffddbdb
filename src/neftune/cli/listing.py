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
    if not (root / "studies").is_dir():
        return []
    store = Store(root)
    rows: list[dict[str, Any]] = []
    for path in sorted((root / "studies").glob("*/plan.json")):
        study = store.read_study(path.parent.name)
        rows.append(
            {
                "study": path.parent.name,
                "runs": len({run.run_id for run in study.planned}),
                "done": len(study.records),
                "failed": len(study.failures),
                "report": "yes" if (path.parent / "report.html").is_file() else "no",
            }
        )
    return rows


def _runs(root: Path) -> list[dict[str, Any]]:
    if not (root / "runs").is_dir():
        return []
    store = Store(root)
    rows: list[dict[str, Any]] = []
    for folder in sorted((root / "runs").iterdir()):
        if store.is_done(folder.name):
            record = store.read_result(folder.name)
            state, alpha, seed = "done", f"{record.alpha:.4g}", record.config["seed"]
            model, data = record.config["model"]["path"], record.config["data"]["source"]
        else:
            state = "failed" if (folder / "failure.json").is_file() else "unfinished"
            alpha = seed = model = data = ""
        rows.append({"run": folder.name, "state": state, "alpha": alpha, "seed": seed, "model": model, "data": data})
    return rows


def _first_line(entry: object) -> str:
    text = getattr(entry, "summary", None) or getattr(entry, "__doc__", None) or ""
    return str(text).strip().split("\n")[0]
