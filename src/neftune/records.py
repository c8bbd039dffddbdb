"""What the stages hand to each other: small frozen records, standard library only.

Example -> Document -> (training) -> HistoryPoint, RealisedNoise
Example -> Answer -> Scores -> RunRecord -> StudyResult -> (analysis, report)
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
Part = Literal["train", "heldout", "test"]

Stage = Literal["tune", "main", "confirm"]
"""What a run is for: nuisance knobs are tuned; arms are compared (and, without a confirmation, judged); the chosen
arm is judged on fresh seeds."""

PARTS: tuple[Part, ...] = ("train", "heldout", "test")
"""Disjoint parts of a data set: trained on; choices (alpha) are made on; judged on."""


CONTROLLED_PART: Part = "test"
"""The part that control variants are asked about: the one that is judged."""

VARIANT_MARK = "@"
"""Between a part and the control variant that it was asked under: "test@long"."""


def variant_part(part: str, variant: str) -> str:
    """The key of a part's answers and scores under a control variant."""
    return f"{part}{VARIANT_MARK}{variant}"


def content_hash(value: object, *, length: int = 16) -> str:
    """Hex digest of a JSON-serialisable value, the same on every machine and in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its reference response.

    Attributes:
        id: Content hash of turns and input; equal content, equal id.
        turns: The conversation; its last turn is the assistant's, the reference response.
        input: Alpaca's second field, material the instruction works on; "" where there is none.
        tags: Facts about the example that analyses group by (category, person, half, ...).
    """

    id: str
    turns: tuple[Turn, ...]
    input: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def make(cls, turns: Sequence[Turn], *, input: str = "", tags: Mapping[str, str] | None = None) -> "Example":
        """An example with its id computed from its content."""
        content = [[turn.role, turn.content] for turn in turns]
        return cls(content_hash([content, input]), tuple(turns), input, dict(tags or {}))

    @property
    def reference(self) -> str:
        """The reference response: the last turn's text."""
        return self.turns[-1].content


@dataclass(frozen=True, slots=True)
class Document:
    """One example's tokens as the model reads them.

    Attributes:
        example_id: The example it was made from.
        input_ids: Token ids: BOS where the tokenizer has one, prompt, response, EOS. Never padding.
        loss_mask: True where the token is trained on (response and its EOS), same length.
        truncated: Whether the example was longer than the context.
    """

    example_id: str
    input_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class DataSet:
    """Examples in disjoint parts, with what was counted on the way.

    Attributes:
        parts: Examples of each part.
        fingerprint: Hash over the ids of every part, in order.
        counts: What reading did: "read", "bad_lines_skipped", "duplicates_dropped", ...
    """

    parts: Mapping[Part, tuple[Example, ...]]
    fingerprint: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RealisedNoise:
    """What noise the model really received, over all noised training forwards.

    Attributes:
        alpha_mean, alpha_min, alpha_max: Realised alpha over documents: noise norm x sqrt(3)
            (for any distribution, its norm over its expected norm at the asked alpha, x alpha).
        noise_to_embedding: RMS(noise) / RMS(clean embedding) over the tokens noised.
        num_documents, num_tokens: Documents and tokens noised (a document counts at every exposure).
        num_forwards: Training forwards seen.
    """

    alpha_mean: float
    alpha_min: float
    alpha_max: float
    noise_to_embedding: float
    num_documents: int
    num_tokens: int
    num_forwards: int


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """What was known at one optimiser step.

    Attributes:
        step: Optimiser steps done.
        epoch: Passes over the training data done, fractional.
        values: "loss" (training loss with noise on, mean since the last point), "clean_train_loss" and
            "clean_heldout_loss" (noise off), "learning_rate", "grad_norm"; only those known at this step.
    """

    step: int
    epoch: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's response to one example's prompt.

    Attributes:
        example_id: The example asked.
        prompt: The rendered prompt, as the model read it.
        text: The response, special tokens removed.
        reference: The example's reference response.
        num_tokens: Tokens generated, end-of-sequence not counted.
        ended: Whether the model stopped by itself (end-of-sequence) rather than at the limit.
    """

    example_id: str
    prompt: str
    text: str
    reference: str
    num_tokens: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """Numbers per example of one part; never pre-averaged.

    Attributes:
        example_ids: One id per example.
        values: Metric name -> one number per example; NaN where the metric is undefined for it.
    """

    example_ids: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm with one seed in one block, before it runs.

    Attributes:
        run_id: Hash of everything that determines the result.
        arm: The arm's name ("baseline", "nsr=0.3", "equal train loss as nsr=0.6").
        block: Where arms are compared ("world=0"); "" where the study has one block.
        seed: The seed that pairs arms.
        config: The resolved settings (`neftune.config.RunConfig` as plain data).
        is_baseline: Whether this is the arm the others are compared with.
        is_control: Whether the arm is a control, never a candidate for the verdict.
        after: Id of the run whose result this one needs, or None.
        stage: What the run is for.
        setting: The arm's scientific knobs, dotted, with their values.
        nuisance: The nuisance knobs it was given, dotted, with their values.
        against: The arm that this one is compared with: the one that lacks its noise alone, or else the baseline.
        is_noisy: Whether the arm has noise; only such an arm can win.
    """

    run_id: str
    arm: str
    block: str
    seed: int
    config: Mapping[str, Any]
    is_baseline: bool = False
    is_control: bool = False
    after: str | None = None
    stage: Stage = "main"
    setting: Mapping[str, Any] = field(default_factory=dict[str, Any])
    nuisance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    against: str = "baseline"
    is_noisy: bool = True


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run.

    Attributes:
        run_id: As planned.
        config: The resolved settings.
        history: Training, in order of steps; the first point is step 0, before any update.
        noise: The realised noise; None for a run with alpha = 0.
        alpha: The alpha that was applied (solved from the noise-to-signal ratio where that was asked).
        counts: Examples read, truncated, dropped; steps; tokens.
        answers: Responses by evaluation part; those of a control variant under "part@variant".
        scores: Scores by evaluation part, variants likewise.
        versions: Library versions, code version, hardware.
        seconds: Wall-clock seconds by stage.
        data_fingerprint: Hash of the examples.
        tags: Tags by example id, for the examples that answers and scores refer to.
    """

    run_id: str
    config: Mapping[str, Any]
    history: tuple[HistoryPoint, ...]
    noise: RealisedNoise | None
    alpha: float
    counts: Mapping[str, int]
    answers: Mapping[str, tuple[Answer, ...]]
    scores: Mapping[str, Scores]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    data_fingerprint: str
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not finish, and why."""

    run_id: str
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class StudyResult:
    """A study as far as it has come: what was planned, what is done, what failed.

    Attributes:
        recipe: The resolved recipe as plain data.
        planned: Every run of the plan.
        records: Finished runs by run id.
        failures: Failed runs by run id.
        judged: What a judge prefers, where the study was judged after its runs (`neftune judge --study`): part and run
            id -> example id -> preference, 1 the baseline of the same block and seed, 2 the run, NaN unparsed.
        judged_by: The judge's name; "" where there was none.
        to_come: Stages whose runs cannot be planned before earlier ones are done.
        notes: What happened on the way that a reader must know, a sentence each.
    """

    recipe: Mapping[str, Any]
    planned: tuple[PlannedRun, ...]
    records: Mapping[str, RunRecord]
    failures: Mapping[str, Failure]
    judged: Mapping[tuple[str, str], Mapping[str, float]] = field(
        default_factory=dict[tuple[str, str], Mapping[str, float]]
    )
    judged_by: str = ""
    to_come: tuple[Stage, ...] = ()
    notes: tuple[str, ...] = ()

    def at(self, stage: Stage) -> "StudyResult":
        """The study's runs of one stage alone."""
        return replace(self, planned=tuple(run for run in self.planned if run.stage == stage))

    @property
    def judged_stage(self) -> Stage:
        """The stage whose runs the verdict rests on."""
        return "confirm" if self.recipe.get("study", {}).get("confirm_seeds") else "main"


def baseline_runs(result: StudyResult) -> dict[str, PlannedRun]:
    """Run id -> the planned run it is compared with: same stage, block and seed; none for a baseline itself."""
    corners = {(run.stage, run.block, run.arm, run.seed): run for run in result.planned}
    baselines = {(run.stage, run.block, run.seed): run for run in result.planned if run.is_baseline}
    found: dict[str, PlannedRun] = {}
    for run in result.planned:
        if not run.is_baseline:
            twin = corners.get((run.stage, run.block, run.against, run.seed))
            twin = twin or baselines.get((run.stage, run.block, run.seed))
            if twin:
                found[run.run_id] = twin
    return found


def to_json(record: object) -> dict[str, Any]:
    """A record as plain data, ready for `json.dumps`."""
    return asdict(record)  # pyright: ignore[reportArgumentType, reportCallIssue]
