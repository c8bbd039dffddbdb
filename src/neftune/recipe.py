"""Recipes on disk: YAML in, dotted overrides applied, one resolved file out."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from neftune.config import Knobs, Recipe
from neftune.errors import ConfigError

K = TypeVar("K", bound=Knobs)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        ConfigError: No such file, not YAML, an unknown key (with did-you-mean), or a value out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"a recipe must be a readable YAML file, got {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"a recipe must be UTF-8 text, got {path}: {error.reason} at byte {error.start}.") from error
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"{path}{line} must be YAML: {getattr(error, 'problem', error)}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings (name:, model:, data:, ...), got {values!r}.")
    return validate(Recipe, values, source=str(path))


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write every setting, defaults included, as YAML that `read_recipe` gives back unchanged."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def with_overrides(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with dotted ones replaced: {"train.learning_rate": 1e-4}.

    A scale of the noise replaces the other one: {"noise.nsr": 0.3} clears noise.alpha.
    """
    values = _copy(base)
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        group = values
        for parent in parents:
            child = group.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"a dotted knob must name a setting, got {dotted!r}: {parent!r} has no parts.")
            group = child
        group[last] = value
        if dotted in ("noise.alpha", "noise.nsr"):
            group["nsr" if last == "alpha" else "alpha"] = None
    return values


def validate(kind: type[K], values: Mapping[str, Any], *, source: str) -> K:
    """Settings of one kind from plain data.

    Raises:
        ConfigError: One line per wrong setting: where, what was required, what was received.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(kind, dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "\n  ".join(lines)) from error


def knob_names(kind: type[BaseModel]) -> list[str]:
    """Every dotted knob of a kind of settings."""
    return [name for name, _ in _knobs(kind)]


def mapping_knobs(kind: type[BaseModel]) -> list[str]:
    """Every dotted knob that holds a mapping of names to values, whose entries can be set one by one."""
    return [name for name, annotation in _knobs(kind) if get_origin(annotation) is dict]


def _knobs(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted knob with its annotation."""
    for name, info in kind.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _knobs(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, annotation


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key given twice, of which it would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _explain(kind: type[BaseModel], problem: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        names = knob_names(kind)
        groups = sorted({name.rsplit(".", 1)[0] for name in names if "." in name} | set(names))
        close = _closest(where, [*names, *groups])
        hint = f" Did you mean {close!r}?" if close else f" `neftune study --help` lists them all ({len(names)} knobs)."
        return f"{where!r} is not a setting.{hint}"
    if problem["type"] == "missing":
        return f"{where} is required and was not given."
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    return f"{where}: {message[0].lower()}{message[1:]}, got {problem['input']!r}."


def _closest(name: str, known: Sequence[str]) -> str | None:
    """The known dotted name most like this one, siblings first."""
    group = name.rsplit(".", 1)[0] + "." if "." in name else ""
    siblings = [one for one in known if one.startswith(group) and "." not in one[len(group) :]]
    for candidates in (siblings, known):
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
        if close:
            return close[0]
    return None


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}
