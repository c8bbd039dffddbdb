"""A study's plan on disk: it may grow, an earlier one is kept beside it, and another study never takes its place."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from neftune.errors import ConfigError, StoreError
from neftune.records import PlannedRun, Stage, content_hash
from neftune.study.files import read_json, write_json

PLAN = "plan.json"
EARLIER = "plan-*.json"
BROKEN = "broken-plan.json"

IsDone = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """A study as it was planned.

    Attributes:
        recipe: Its resolved recipe.
        planned: Its runs.
        to_come: Stages whose runs are not known yet.
        notes: What a reader of the results must know.
        earlier: The same of plans that this one has replaced, a sentence each.
    """

    recipe: Mapping[str, Any]
    planned: tuple[PlannedRun, ...]
    to_come: tuple[Stage, ...] = ()
    notes: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()


def read_plan(path: Path) -> Plan:
    """A plan from its file.

    Raises:
        StoreError: The file cannot be read, or is no plan.
    """
    values = read_json(path)
    try:
        planned = tuple(PlannedRun(**run) for run in values["planned"])
        said = [tuple(values.get(name, ())) for name in ("to_come", "notes", "earlier")]
        return Plan(values["recipe"], planned, *said)
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{path} must hold a study's plan, got {error} (of a newer version?). Start the study again."
        ) from error


def planned_ids(folder: Path, *, earlier: bool = True) -> set[str]:
    """Ids of the runs that the plan in a study's folder names, and those of earlier plans that were kept.

    Raises:
        StoreError: A plan cannot be read.
    """
    paths = [*folder.glob(PLAN), *(folder.glob(EARLIER) if earlier else ())]
    return {run.run_id for path in paths for run in read_plan(path).planned}


def write_plan(folder: Path, plan: Plan, *, is_done: IsDone) -> None:
    """Store a plan, whatever was planned there before being kept.

    A plan that only adds runs takes the earlier one's place. Where finished runs drop out, or the rule of the decision
    is another, the earlier plan stays as plan-<hash>.json and the new one says so.

    Args:
        folder: The study's folder; one process at a time.
        plan: What is planned now.
        is_done: Whether a run has its result.

    Raises:
        ConfigError: The folder holds a study with other settings, of which runs are finished.
        StoreError: The plan cannot be written.
    """
    path = folder / PLAN
    earlier: tuple[str, ...] = ()
    before = _readable(path)
    if before:
        done = {run.run_id for run in before.planned if is_done(run.run_id)}
        if done:
            _refuse_other(folder, before.recipe, plan.recipe)
        dropped = done - {run.run_id for run in plan.planned}
        note = _what_changed(before, plan, done, dropped) if done else ""
        if note or dropped:
            values = asdict(before)
            write_json(folder / f"plan-{content_hash(values, length=8)}.json", values)
        earlier = (*before.earlier, note) if note else before.earlier
    write_json(path, asdict(replace(plan, earlier=earlier)))


def _readable(path: Path) -> Plan | None:
    """The plan that is there; one that cannot be read is set aside, for its runs are planned anew."""
    if not path.is_file():
        return None
    try:
        return read_plan(path)
    except StoreError:
        path.replace(path.with_name(BROKEN))
        return None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted settings that both recipes have and that differ; a setting that one version lacks is no difference."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in (one for one in before if one in now):
        old, new = before[name], now[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping) and name not in _AXES:
            inner = changes(cast(Mapping[str, Any], old), cast(Mapping[str, Any], new))
            found |= {f"{name}.{key}": pair for key, pair in inner.items()}
        elif old != new:
            found[name] = (old, new)
    return found


_AXES = ("scientific", "blocks", "nuisance", "harm_tolerance", "regularizers")
"""Settings that are mappings themselves."""


def _refuse_other(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """What every run of a study shares must stay: runs with other settings answer another question."""
    other = {knob: pair for knob, pair in changes(before, now).items() if knob.split(".")[0] not in _MAY_CHANGE}
    if not other:
        return
    named = ", ".join(f"{knob} ({old!r} before, {new!r} now)" for knob, (old, new) in list(other.items())[:3])
    more = f" and {len(other) - 3} more" if len(other) > 3 else ""
    raise ConfigError(
        f"the study {folder.name!r} in {folder.parent.parent} has finished runs with other settings: {named}{more}. "
        f"Give this study a name of its own (--name {folder.name}-2), or another --out."
    )


_MAY_CHANGE = ("study", "question", "name")


def _what_changed(before: Plan, now: Plan, done: set[str], dropped: set[str]) -> str:
    """A sentence on a rule that was changed, or on finished runs that are no longer planned; "" where neither."""
    changed = changes(before.recipe, now.recipe)
    rule = [knob for knob in changed if knob.startswith("study.decision.")]
    if rule:
        said = ", ".join(f"{knob} from {changed[knob][0]!r} to {changed[knob][1]!r}" for knob in rule)
        return f"The rule was changed after {_count(done)} finished: {said}."
    axes = [knob for knob in changed if knob.startswith("study.")]
    # A plan that is still growing may come back to runs that it lacks: a failed run of an early stage is tried again.
    if not dropped or (now.to_come and not axes):
        return ""
    why = (
        f"{', '.join(axes)} changed" if axes else "code, libraries, data or weights are others, or an arm was left out"
    )
    return f"{_count(dropped)} finished by an earlier plan and not part of this one: {why}."


def _count(runs: set[str]) -> str:
    return f"{len(runs)} run{' was' if len(runs) == 1 else 's were'}"
