"""The page's sections in their order: what each says, and the tables and figures that say it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from neftune.report import comparison, numbers, paper, provenance
from neftune.report.benchmarks import benchmarks_table
from neftune.report.confirmation import confirmation_table
from neftune.report.dose_response import dose_sentences, dose_table
from neftune.report.drawing import Figure
from neftune.report.evidence import Evidence
from neftune.report.factorial import factorial_table
from neftune.report.figures import figures
from neftune.report.forest import dropped_note, effects_table, forest, kinds, matrix
from neftune.report.noise import noise_table
from neftune.report.other_means import other_means_table
from neftune.report.runs import runs_table
from neftune.report.stages import notes_lines, stages_table
from neftune.report.tables import Table
from neftune.report.tuning import tuning_tables
from neftune.report.wins import wins_table

ItemKind = Literal["table", "figure", "folded", "list", "code", "outputs"]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a section.

    Attributes:
        kind: How the page draws it.
        value: A `Table`, a `Figure`, lines, or a text.
        label: Heading of a folded table or of a code block.
        id: Identifier of a code block.
    """

    kind: ItemKind
    value: Any = None
    label: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page.

    Attributes:
        id: Its anchor.
        title: Its heading.
        short: Its name in the navigation.
        lead: Paragraphs under the heading.
        items: What it shows.
    """

    id: str
    title: str
    short: str
    lead: tuple[str, ...] = ()
    items: tuple[Item, ...] = field(default=())


def sections(evidence: Evidence) -> tuple[Section, ...]:
    """Every section that has something to show."""
    made = (
        effects_section(evidence),
        dose_section(evidence),
        factorial_section(evidence),
        stages_section(evidence),
        wins_section(evidence),
        benchmarks_section(evidence),
        runs_section(evidence),
        losses_section(evidence),
        overfitting_section(evidence),
        noise_section(evidence),
        outputs_section(evidence),
        paper_section(evidence),
        limits_section(evidence),
        provenance_section(evidence),
    )
    return tuple(section for section in made if section is not None)


def _table(table: Table | None, *, folded: str = "") -> Iterator[Item]:
    if table is not None and not table.is_empty:
        yield Item("folded", table, label=folded) if folded else Item("table", table)


def _figure(figure: Figure | None) -> Iterator[Item]:
    if figure is not None:
        yield Item("figure", figure)


def effects_section(evidence: Evidence) -> Section | None:
    """Every arm's difference from the baseline."""
    items: list[Item] = []
    for kind in kinds(evidence):
        items += [*_figure(forest(evidence, kind)), *_table(effects_table(evidence, kind), folded="As a table")]
        if kind.name == "judged":
            items += _table(other_means_table(evidence), folded="The same by other means")
    if not items:
        return None
    lead = "An arm minus the baseline, paired by seed and example. An interval that crosses zero is no evidence."
    note = dropped_note(evidence.effects)
    return Section("effects", "Effects", "Effects", (f"{lead} {note}".strip(),), tuple(items))


def dose_section(evidence: Evidence) -> Section | None:
    """How much noise."""
    items = (*_figure(figures["dose_response"](evidence)), *_table(dose_table(evidence), folded="As a table"))
    if not items:
        return None
    return Section("dose", "Dose and response", "Dose", dose_sentences(evidence), items)


def factorial_section(evidence: Evidence) -> Section | None:
    """Main effects and interactions."""
    table = factorial_table(evidence)
    if table is None:
        return None
    items = (*_figure(figures["factorial"](evidence)), *_table(table), *_figure(figures["interactions"](evidence)))
    return Section("factorial", "Main effects and interactions", "Factors", (), items)


def stages_section(evidence: Evidence) -> Section | None:
    """Which data chose, which judged; what was tuned, and what confirmation kept."""
    if not evidence.study.planned:
        return None
    said = notes_lines(evidence)
    given, tried = tuning_tables(evidence) or (None, None)
    items = (
        *_table(stages_table(evidence)),
        *([Item("list", said)] if said else []),
        *_table(confirmation_table(evidence)),
        *_table(given),
        *_table(tried, folded="Every setting that was tried"),
    )
    return Section("stages", "Which data chose, which judged", "Choice", (), items)


def wins_section(evidence: Evidence) -> Section | None:
    """Raw beside length-controlled win rates."""
    table = wins_table(evidence)
    if table is None:
        return None
    lead = "Longer answers win more comparisons whatever they say, so no win rate stands here without its lengths."
    items = (*_figure(figures["wins"](evidence)), *_table(table))
    return Section("wins", "Win rates, raw and length-controlled", "Win rates", (lead,), items)


def benchmarks_section(evidence: Evidence) -> Section | None:
    """Whether facts survived."""
    table = benchmarks_table(evidence)
    if table is None:
        return None
    lead = "The same questions for every arm, on lm-eval's task definitions, noise off."
    return Section("benchmarks", "Benchmarks", "Benchmarks", (lead,), tuple(_table(table)))


def runs_section(evidence: Evidence) -> Section | None:
    """Every run on its own."""
    if not evidence.rows:
        return None
    table = runs_table(evidence.overview, evidence.rows)
    others = len(evidence.study.planned) - len(evidence.rows)
    lead = (f"The runs that judge. The other {others:,} chose, and are summed up above.",) if others else ()
    return Section("runs", "Run by run", "Runs", lead, tuple(_table(table)))


def losses_section(evidence: Evidence) -> Section | None:
    """Loss curves."""
    items = tuple(_figure(figures["losses"](evidence)))
    return Section("losses", "Loss", "Loss", (), items) if items else None


def overfitting_section(evidence: Evidence) -> Section | None:
    """Memorisation."""
    wanted = [("train", name) for name in ("rouge_l", "verbatim", "loss")]
    wanted += [("heldout", "loss"), ("train", "generalisation_gap")]
    caption = "Memory of the training data, with differences from the baseline and their intervals below"
    items = (*_figure(figures["overfitting"](evidence)), *_table(matrix(evidence, "memory", caption, wanted)))
    return Section("overfitting", "Overfitting", "Overfitting", (), items) if items else None


def noise_section(evidence: Evidence) -> Section | None:
    """Realised noise."""
    items = tuple(_table(noise_table(evidence.overview)))
    lead = "The same alpha is a different disturbance on each model: the ratio is what compares."
    return Section("noise", "Noise realised", "Noise", (lead,), items) if items else None


def outputs_section(evidence: Evidence) -> Section | None:
    """The output browser."""
    if not any(record.answers for record in evidence.overview.runs.values()):
        return None
    lead = "Every prompt with the answers of all arms side by side, one seed at a time."
    return Section("outputs", "Answers side by side", "Answers", (lead,), (Item("outputs"),))


def paper_section(evidence: Evidence) -> Section | None:
    """Published numbers beside ours."""
    items = (
        Item("list", paper.CAVEATS),
        *_table(comparison.paper_table(evidence)),
        *_table(comparison.replication_table(), folded="An independent replication on seven data sets"),
    )
    return Section("paper", "Beside the paper", "Paper", (), items)


LIMITS = (
    "Intervals are for new seeds and new examples of the same kind, in each block on its own. Two worlds, models or "
    "data sets say next to nothing about a third.",
)
UNTUNED = "Nothing here was tuned for each arm: a learning rate that suits the baseline may not suit the noise."
JUDGE_LIMIT = "The judge follows rules: it counts facts that it knows and does not read style, tone or usefulness."
MICROWORLD_LIMIT = (
    "The microworld is a toy: a grammar of people and facts, and a model of under a million parameters that knows "
    "every fact it is asked. It shows that the apparatus works and what the noise did here. It proves nothing about "
    "LLaMA, or about any model and data that a person would deploy."
)


def limits_section(evidence: Evidence) -> Section:
    """What the study cannot show."""
    recipe = evidence.overview.result.recipe
    sources = recipe.get("model", {}).get("path"), recipe.get("data", {}).get("source")
    lines = (MICROWORLD_LIMIT, *LIMITS) if "microworld" in sources else LIMITS
    if not recipe.get("study", {}).get("nuisance"):
        lines = (*lines, UNTUNED)
    if evidence.overview.has_judge:
        lines = (*lines, JUDGE_LIMIT)
    return Section("limits", "What this study cannot show", "Limits", (), (Item("list", lines),))


def provenance_section(evidence: Evidence) -> Section:
    """Settings, versions, seeds, failures, and how to make the study again."""
    overview = evidence.overview
    seeds = ", ".join(map(str, sorted({run.seed for run in evidence.study.planned}))) or "none"
    done = sum(run.run_id in evidence.study.records for run in evidence.study.planned)
    planned = len(evidence.study.planned)
    lead = f"{done:,} of {numbers.count(planned, 'run')} finished. Seeds: {seeds}."
    command = "Save the recipe below as recipe.yaml, then run"
    items = (
        *_table(provenance.missing_table(overview, evidence.study)),
        Item("code", provenance.command_text(overview), label=command, id="command"),
        Item("code", provenance.recipe_text(overview), label="recipe.yaml", id="recipe"),
        *_table(provenance.versions_table(overview)),
        *_table(provenance.settings_table(overview), folded="Every setting"),
        *_table(provenance.runs_index(overview), folded="Finished runs"),
    )
    return Section("provenance", "How to reproduce", "Reproduce", (lead,), items)
