"""A run's data: the parts of its source, or with a prompt file as the test part."""

import functools
from pathlib import Path

from neftune.config import DataConfig
from neftune.errors import ConfigError, DataError
from neftune.records import PARTS, DataSet, Example, Part, Turn, content_hash


def load_run_data(config: DataConfig) -> DataSet:
    """The examples that a run is trained on and asked about.

    With ``test_prompts`` the file's prompts are the test part, and a training or held-out example that asks one of them
    is dropped and counted.

    Raises:
        DataError: The source or the prompt file cannot be read, is broken, or holds too little.
        ConfigError: Prompts from a file for the microworld, whose judge could not answer them.
    """
    return _load(config.model_dump_json())


@functools.lru_cache(maxsize=4)
def _load(config: str) -> DataSet:
    from neftune.data.datasets import load_data

    settings = DataConfig.model_validate_json(config)
    data = load_data(settings)
    return data if settings.test_prompts is None else _with_prompts(data, settings, Path(settings.test_prompts))


def _with_prompts(data: DataSet, settings: DataConfig, path: Path) -> DataSet:
    from neftune.data.splits import prompt_key

    if settings.source == "microworld":
        raise ConfigError(f"data.test_prompts is for data from files, got {path} with the microworld. Leave it out.")
    prompts = prompt_examples(path)
    asked = {prompt_key(one) for one in prompts}
    parts: dict[Part, tuple[Example, ...]] = {
        part: tuple(one for one in data.parts[part] if prompt_key(one) not in asked) for part in PARTS
    }
    kept: tuple[Part, ...] = ("train", "heldout")
    dropped = sum(len(data.parts[part]) - len(parts[part]) for part in kept)
    for part in kept:
        if not parts[part]:
            raise DataError(f"the {part} part must have examples that {path} does not ask, got none. Give more data.")
    parts["test"] = prompts
    ids = {part: [one.id for one in examples] for part, examples in parts.items()}
    counts = {**data.counts, "shared_with_test_prompts_dropped": dropped}
    return DataSet(parts, content_hash(ids), counts)


def prompt_examples(path: Path) -> tuple[Example, ...]:
    """The prompts of a file as examples, the reference "" where a row has no output.

    Raises:
        DataError: As `neftune.evaluation.outputs.read_prompts`, or two rows are the same example.
    """
    from neftune.evaluation.outputs import read_prompts

    made: dict[str, Example] = {}
    for row in read_prompts(path).rows:
        tags = {name: str(row.fields[name]) for name in ("dataset", "category") if row.fields.get(name)}
        example = Example.make((Turn("user", row.instruction), Turn("assistant", row.text)), input=row.input, tags=tags)
        if example.id in made:
            raise DataError(f"{row.where}: a prompt must stand in a file once, got {row.prompt[:60]!r} again.")
        made[example.id] = example
    return tuple(made.values())
