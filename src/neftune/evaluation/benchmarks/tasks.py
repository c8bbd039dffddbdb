"""lm-eval's tasks by name, with their rows from local files where a folder of data is given.

lm-eval's published definition is used as it is: prompt, metric, aggregation and few-shot sampler. Only the data source
and the number of shots are set.
"""

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neftune.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from neftune.evaluation.benchmarks.definitions import read_definition
from neftune.evaluation.benchmarks.sources import LocalSource, SplitRows, read_split, source_of, wanted

LEADERBOARD: Mapping[str, int] = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0}
"""The paper's four benchmarks with their shots, as the Open LLM Leaderboard ran them in 2023.

Source: arXiv 2310.05914, section 4.1; the leaderboard's harness settings.
"""

_QUICK = ("arc", "hellaswag", "mmlu/default", "truthfulqa", "ifeval")
"""Folders of lm-eval that hold the tasks in daily use; reading all of its 14,000 definitions takes seconds."""

_LOCAL_BUILDERS = ("json", "csv", "parquet", "arrow", "text", "pandas")
_SPLIT_FIELDS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Which tasks, and where their data comes from.

    Attributes:
        data: Folder with the task files, searched with its subfolders; None takes the hub, as lm-eval does by default.
        task_folder: Folder of the user's own task definitions (lm-eval's YAML), beside lm-eval's.
        shots: Few-shot examples by task name, in place of the default: `LEADERBOARD`'s, else the definition's own.
    """

    data: Path | None = None
    task_folder: Path | None = None
    shots: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """One name, resolved.

    Attributes:
        name: As it is reported.
        built: lm-eval's Task, or its Group of tasks (mmlu is one of 57).
        leaves: lm-eval's Task by its name: one, or every task of the group.
        notes: What makes the numbers differ from published ones (a training file that is not whole).
        files: Files read; none where the data came from the hub.
    """

    name: str
    built: Any
    leaves: Mapping[str, Any]
    notes: tuple[str, ...]
    files: tuple[Path, ...]


def expand(names: Sequence[str]) -> list[str]:
    """Names with "leaderboard" replaced by its four, each once.

    Raises:
        ConfigError: No name is left.
    """
    every = [one for name in names for one in (LEADERBOARD if name == "leaderboard" else (name,)) if one]
    if not every:
        raise ConfigError(f"benchmarks must name a task, such as leaderboard or {', '.join(LEADERBOARD)}, got none.")
    return list(dict.fromkeys(every))


def load_tasks(names: Sequence[str], options: TaskOptions | None = None) -> list[LoadedTask]:
    """lm-eval's tasks, with their data read.

    Args:
        names: Tasks, groups or tags of lm-eval or of ``options.task_folder``, or "leaderboard".
        options: Data, own definitions, shots.

    Raises:
        UnknownNameError: lm-eval has no such task.
        ConfigError: Shots for a task that is not run, or that its definition forbids.
        DataError: A file is missing or broken, or there are fewer examples than shots.
        MissingExtraError: lm-eval is not installed.
    """
    options = options or TaskOptions()
    _require_lm_eval()
    asked = expand(names)
    _check_options(options, asked)
    manager = _manager(asked, options.task_folder)
    reader = functools.cache(read_split)
    loaded = [task for name in asked for task in _load(manager, name, options, reader)]
    for task in loaded:
        for leaf in task.leaves.values():
            _check_shots(leaf)
    return loaded


def _require_lm_eval() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("benchmarks need lm-eval: pip install 'neftune[eval]'") from error


def _check_options(options: TaskOptions, asked: Sequence[str]) -> None:
    for name, number in options.shots.items():
        if name not in asked:
            raise ConfigError(f"shots must be of a task that is run ({', '.join(asked)}), got {name!r}. Leave it out.")
        if number < 0:
            raise ConfigError(f"shots of {name} must be 0 or more, got {number}.")
    for folder in (options.data, options.task_folder):
        if folder is not None and not folder.is_dir():
            raise DataError(f"a folder of benchmark data or tasks must exist, got {folder}. Check the path.")


def _manager(names: Sequence[str], task_folder: Path | None) -> Any:
    """A TaskManager that knows every name, and only the daily tasks where those are enough."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    own: list[str | Path] = [] if task_folder is None else [task_folder]
    quick = lm_eval.tasks.TaskManager(include_defaults=False, include_path=[*(root / one for one in _QUICK), *own])
    if all(name in quick.task_index for name in names):
        return quick
    full = lm_eval.tasks.TaskManager(include_path=own) if own else _full_manager()
    for name in names:
        if name not in full.task_index:
            close = difflib.get_close_matches(name, list(full.task_index), n=3)
            hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
            raise UnknownNameError(
                f"a benchmark must be leaderboard, or a task, group or tag of lm-eval or of the folder of own tasks; "
                f"got {name!r}.{hint}"
            )
    return full


@functools.cache
def _full_manager() -> Any:
    import lm_eval.tasks

    return lm_eval.tasks.TaskManager()


def _load(manager: Any, name: str, options: TaskOptions, reader: Any) -> Iterator[LoadedTask]:
    """The name's task or group; every task of a tag."""
    index = manager.task_index
    leaves = list(dict.fromkeys(_leaf_names(index, name)))
    kept = {leaf: index[leaf] for leaf in leaves}
    local: dict[str, list[SplitRows]] = {}
    try:
        for leaf in leaves:
            index[leaf], local[leaf] = _prepared(index[leaf], _shots(name, leaf, options), options.data, reader)
        found = manager.load([name])
    except (ConnectionError, FileNotFoundError) as error:
        raise DataError(
            f"benchmark {name} needs its data from the hub, which could not be reached or has no such data ({error}). "
            "Connect, or name a folder of task files with --data."
        ) from error
    finally:
        index.update(kept)
    group = found["groups"].get(name) if found.get("groups") else None
    tops = {name: group} if group is not None else dict(found["tasks"])
    for top, built in tops.items():
        tasks = found["tasks"] if group is not None else {top: built}
        splits = [split for leaf in tasks for split in local.get(leaf, ())]
        notes = dict.fromkeys(split.note for split in splits if split.note)
        files = dict.fromkeys(file for split in splits for file in split.files)
        yield LoadedTask(top, built, tasks, tuple(notes), tuple(files))


def _leaf_names(index: Mapping[str, Any], name: str) -> Iterator[str]:
    """Names of the tasks that a task, group or tag stands for."""
    entry = index.get(name)
    if entry is None:
        return
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        yield from _member_names(index, entry.cfg.get("task"))
    else:
        yield name


def _member_names(index: Mapping[str, Any], members: Any) -> Iterator[str]:
    for member in members if isinstance(members, list) else [members]:
        if isinstance(member, dict):
            yield from _member_names(index, member.get("group", member.get("task")))
        elif member is not None:
            yield from _leaf_names(index, member)


def _shots(name: str, leaf: str, options: TaskOptions) -> int | None:
    """Shots asked for; None leaves the definition's own."""
    if name in options.shots:
        return options.shots[name]
    if name in LEADERBOARD:
        return LEADERBOARD[name]
    return None


def _prepared(entry: Any, shots: int | None, folder: Path | None, reader: Any) -> tuple[Any, list[SplitRows]]:
    """An index entry of the same definition with shots and local data set, and what was read."""
    from lm_eval.tasks._index import Entry

    definition = read_definition(entry.name, entry.yaml_path)
    if "class" in definition:
        if folder is not None or shots is not None:
            raise ConfigError(f"{entry.name} is written in Python: its data and shots cannot be set. Leave both out.")
        return entry, []
    changes: dict[str, Any] = {}
    if shots is not None:
        if definition.get("num_fewshot") == 0 and shots:
            raise ConfigError(f"{entry.name} is defined with 0 shots, got {shots}. Leave them out.")
        changes["num_fewshot"] = shots
    read: list[SplitRows] = []
    own_data = definition.get("custom_dataset") or definition.get("dataset_path") in _LOCAL_BUILDERS
    if folder is not None and not own_data:
        more, read = _local_data({**definition, **changes}, entry.name, folder, reader)
        changes |= more
    return Entry(name=entry.name, kind=entry.kind, yaml_path=None, cfg={**definition, **changes}), read


def _local_data(
    definition: Mapping[str, Any], task: str, folder: Path, reader: Any
) -> tuple[dict[str, Any], list[SplitRows]]:
    """The changes that give a definition its rows from a folder."""
    path, subset = str(definition.get("dataset_path")), definition.get("dataset_name")
    source = source_of(path, subset)
    if source is None:
        raise DataError(
            f"{task} reads {path}, for which no local form is known. Run it without a data folder (from the hub), or "
            "write a task definition of your own with dataset_path: json."
        )
    needed = _needed_splits(definition)
    splits: dict[str, SplitRows] = {}
    changes: dict[str, Any] = {}
    for name in _SPLIT_FIELDS:
        split = definition.get(name)
        if split is None:
            continue
        found = reader(source, split, folder)
        if found is not None:
            splits[split] = found
        elif split in needed:
            raise DataError(f"{task}: {wanted(source, split, folder)}; there is no such file.")
        else:
            changes[name] = None
    rows = {name: _of_subject(split.rows, source, subset, task) for name, split in splits.items()}
    return changes | {"custom_dataset": _made_of(rows)}, list(splits.values())


def _needed_splits(definition: Mapping[str, Any]) -> set[str]:
    """The split that is evaluated, and the one that shots come from where there are any."""
    evaluated = definition.get("test_split") or definition.get("validation_split")
    needed = {str(evaluated)}
    if definition.get("num_fewshot"):
        shown = definition.get("fewshot_split") or definition.get("training_split")
        needed.add(str(shown or definition.get("validation_split") or evaluated))
    return needed


def _of_subject(rows: list[dict[str, Any]], source: LocalSource, subset: str | None, task: str) -> list[dict[str, Any]]:
    if source_of("cais/mmlu", None) is not source or subset in (None, "all"):
        return rows
    found = [row for row in rows if row["subject"] == subset]
    if not found:
        raise DataError(f"{task} needs rows of subject {subset!r}, got none among {len(rows)}. Check the MMLU files.")
    return found


def _made_of(rows: Mapping[str, list[dict[str, Any]]]) -> Callable[..., Any]:
    """What lm-eval calls for a task's data; a function, which it copies without copying the rows."""

    def splits(**_: Any) -> Any:
        import datasets

        return datasets.DatasetDict({split: datasets.Dataset.from_list(found) for split, found in rows.items()})

    return splits


def _check_shots(task: Any) -> None:
    """Refuses more shots than there are examples; lm-eval would fail in the middle."""
    shots = task.config.num_fewshot
    if shots is None:
        task.set_config("num_fewshot", 0)
        return
    pool = len(task.sampler.df) if shots else 0
    # Where shots come from the evaluated split, lm-eval draws one more, in case the question itself is drawn.
    spare = int(shots > 0 and task.fewshot_cfg.split == task.config.test_split and not task.has_training_docs())
    if shots + spare > pool and shots:
        raise DataError(
            f"{task.config.task} with {shots} shots needs {shots + spare} examples to show, got {pool}. "
            "Give the whole training file, or ask for fewer shots."
        )
