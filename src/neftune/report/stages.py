"""Which runs did what: the stages of a study, the data that each saw, and what was decided on it."""

from collections.abc import Iterator
from typing import Any

from neftune.analysis.wording import PARTS, metric_phrase
from neftune.records import VARIANT_MARK, PlannedRun, Stage, StudyResult
from neftune.report import numbers
from neftune.report.evidence import Evidence
from neftune.report.headline import merged
from neftune.report.overview import STAGES
from neftune.report.tables import Cell, Column, Table, cells, one_group

COLUMNS = (
    Column("stage", numeric=False),
    Column("what was decided", numeric=False),
    Column("on which part", numeric=False),
    Column("parts these runs saw", numeric=False),
    Column("seeds", numeric=False),
    Column("runs", "done of planned"),
    Column("failed"),
)


def stages_table(evidence: Evidence) -> Table:
    """One row a stage: what it decided, on which data, with which runs."""
    by_stage: dict[Stage, list[PlannedRun]] = {}
    for run in evidence.study.planned:
        by_stage.setdefault(run.stage, []).append(run)
    rows: list[tuple[Cell, ...]] = []
    for stage in STAGES:
        if stage in by_stage:
            rows.append(_row(evidence, stage, by_stage[stage]))
        elif stage in evidence.study.to_come:
            decided, part = _decided(evidence, stage)
            rows.append(cells(STAGES[stage], decided, part, "", "", "to come", ""))
    caption = "The study's stages, in their order"
    return Table("stages", caption, COLUMNS, one_group(rows), tuple(_notes(evidence)))


def _row(evidence: Evidence, stage: Stage, runs: list[PlannedRun]) -> tuple[Cell, ...]:
    study = evidence.study
    done = sum(run.run_id in study.records for run in runs)
    failed = sum(run.run_id in study.failures for run in runs)
    seeds = sorted({run.seed for run in runs})
    shown = ", ".join(map(str, seeds[:10])) + (f" and {len(seeds) - 10} more" if len(seeds) > 10 else "")
    decided, part = _decided(evidence, stage)
    return cells(
        STAGES[stage],
        decided,
        part,
        ", ".join(parts_seen(study, runs)),
        shown,
        f"{done:,} of {len(runs):,}",
        Cell(str(failed), tone="bad" if failed else ""),
    )


def parts_seen(study: StudyResult, runs: list[PlannedRun]) -> tuple[str, ...]:
    """Parts that runs were evaluated on, or will be, as readers call them."""
    seen: dict[str, None] = {}
    for run in runs:
        record = study.records.get(run.run_id)
        config: Any = run.config.get("evaluate", {})
        seen.update(dict.fromkeys(record.scores if record else config.get("parts", ())))
    return tuple(PARTS.get(part, part) for part in seen if VARIANT_MARK not in part)


def _decided(evidence: Evidence, stage: Stage) -> tuple[str, str]:
    """What a stage decides, and on which part."""
    rule, study = evidence.decision, evidence.study
    settings: Any = study.recipe.get("study", {})
    chosen_on, judged_on = PARTS["heldout"], PARTS["test"]
    if stage == "tune":
        return f"every arm's nuisance knobs, by {metric_phrase(settings.get('tune_by', 'loss'))}", chosen_on
    if stage == "confirm":
        return f"the verdict on the chosen arm, by {metric_phrase(rule.judge_by)}", judged_on
    chosen = f"the arm, by {metric_phrase(rule.choose_by)}"
    if study.judged_stage == "confirm":
        return chosen, chosen_on
    return f"{chosen}; the verdict, by {metric_phrase(rule.judge_by)}", f"{chosen_on}; {judged_on}"


def _notes(evidence: Evidence) -> Iterator[str]:
    if evidence.study.judged_stage == "confirm":
        yield (
            "The arm was chosen on runs that never saw the test part and is judged on fresh seeds, so neither luck of "
            "examples nor luck of seeds is carried over, and no correction for the number of arms is due."
        )
    else:
        yield (
            "One set of runs chose and judged, on different examples: luck of examples is not carried over; luck of "
            "seeds is, and the judged interval is widened for it. study.confirm_seeds would judge on fresh seeds."
        )


def stages_data(evidence: Evidence) -> list[dict[str, Any]]:
    """The same as plain data."""
    study = evidence.study
    made: list[dict[str, Any]] = []
    for stage in STAGES:
        runs = [run for run in study.planned if run.stage == stage]
        if runs or stage in study.to_come:
            made.append(
                {
                    "stage": stage,
                    "planned": len(runs),
                    "done": sum(run.run_id in study.records for run in runs),
                    "failed": sum(run.run_id in study.failures for run in runs),
                    "seeds": sorted({run.seed for run in runs}),
                    "parts": list(parts_seen(study, runs)),
                    "to_come": stage in study.to_come,
                }
            )
    return made


def stage_lines(evidence: Evidence) -> Iterator[str]:
    """The same in a terminal, for studies of several stages."""
    stages = {run.stage for run in evidence.study.planned} | set(evidence.study.to_come)
    if len(stages) < 2:
        return
    for row in stages_table(evidence).groups[0].rows:
        stage, decided, part, _, seeds, runs, _ = (cell.text for cell in row)
        yield f"{stage}: {decided}, on the {part} part ({f'seeds {seeds}; ' if seeds else ''}{runs} runs)"


def notes_lines(evidence: Evidence) -> tuple[str, ...]:
    """What happened on the way, and how many runs of all stages failed."""
    failed = sum(run.run_id in evidence.study.failures for run in evidence.study.planned)
    lost = (f"{numbers.count(failed, 'run')} failed: see How to reproduce.",) if failed else ()
    return (*merged(evidence.study.notes), *lost)
