"""Finished tasks on disk, found again only for the same model, tokenizer, task, data and backend."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neftune.errors import ConfigError
from neftune.evaluation.benchmarks.results import LeafResult
from neftune.evaluation.scoring.answers import fingerprint
from neftune.records import content_hash


class LeafCache:
    """Results of finished tasks.

    Args:
        folder: Where they lie; None keeps and finds nothing.
        model: Whose results.
        tokenizer: Its tokenizer.
        backend: What computed them.

    Raises:
        ConfigError: The folder cannot be made.
    """

    def __init__(self, folder: Path | None, model: Any, tokenizer: Any, backend: str) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the folder for finished tasks must be writable, got {folder}: {error}.") from error
        self.identity = [fingerprint(model), _tokenizer_fingerprint(tokenizer), backend, version("lm-eval")]

    def key(self, task: Any, limit: int | None) -> str:
        """What one task's result depends on, as a hash; "" where nothing is kept."""
        if self.folder is None:
            return ""
        settings = {name: one for name, one in task.dump_config().items() if name not in ("custom_dataset", "metadata")}
        docs = [list(task.task_docs)[:limit], list(task.sampler.df) if task.config.num_fewshot else []]
        digest = hashlib.sha256(json.dumps(docs, sort_keys=True, default=str).encode()).hexdigest()
        return content_hash([self.identity, json.dumps(settings, sort_keys=True, default=str), digest, limit])

    def read(self, key: str) -> LeafResult | None:
        """A finished task; None where there is none, or a file that was cut off."""
        if self.folder is None:
            return None
        try:
            return _from_json(json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, key: str, result: LeafResult) -> None:
        """Keep a finished task; it is there whole or not at all."""
        if self.folder is None:
            return
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(result), file)
        Path(name).replace(self.folder / f"{key}.json")


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    inner = getattr(tokenizer, "backend_tokenizer", None)
    text = json.dumps(sorted(tokenizer.get_vocab().items())) if inner is None else inner.to_str()
    return content_hash([text, str(tokenizer.special_tokens_map), str(getattr(tokenizer, "add_bos_token", None))])


def _from_json(found: Mapping[str, Any]) -> LeafResult:
    return LeafResult(
        aggregates=found["aggregates"],
        example_ids=tuple(found["example_ids"]),
        values={name: tuple(values) for name, values in found["values"].items()},
        counts=found["counts"],
        texts=found["texts"],
    )
