"""Studies with planted effects, for tests of what reads results: `make_study(...)` gives a `StudyResult`.

No model is trained. Losses follow a two-way model (example + seed + noise) around planted means; answers are
sentences about people whose words and facts are counted truthfully; the judge's scores are consistent with them.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neftune.config import Control, DataConfig, Decision, NoiseConfig, Recipe, RunConfig, StudyConfig
from neftune.records import (
    PARTS,
    Answer,
    Failure,
    HistoryPoint,
    PlannedRun,
    RealisedNoise,
    RunRecord,
    Scores,
    StudyResult,
    content_hash,
)

BASELINE = "baseline"
CONTROL = "equal train loss as nsr=0.6"
SIZES = {"train": 24, "heldout": 40, "test": 60}
PEOPLE = ("Mara", "Tobin", "Ilse", "Quent", "Odile", "Bram", "Sunniva", "Pavo")
FACTS = (
    "lives in Oslo",
    "works as a baker",
    "likes to eat rice",
    "wears a red hat",
    "keeps a tortoise",
    "plays the cello",
    "spends free time climbing",
    "has a friend named Ada",
)
HOSTILE = (
    "<script>alert('x')</script>",
    "</td></tr></table><h1>broken</h1>",
    '"quotes" & ampersands \\ backslash {{ jinja }} {% raw %}',
    "",
    "\u202eright to left\u202c \u0000 nul \ud83d\ude42".encode("utf-16", "surrogatepass").decode("utf-16"),
    "one-very-long-word-" * 200,
    "</script><img src=x onerror=alert(1)>",
)


@dataclass(frozen=True)
class Planted:
    """What an arm does beyond the baseline, in expectation.

    Attributes:
        loss: Added to the loss on heldout and test examples.
        train_loss: Added to the loss on training examples.
        true_facts: Further true sentences in an open answer.
        false_facts: Further false sentences in an open answer (Poisson mean).
        closed: Added to the probability of a right closed answer.
        verbatim: Added to the probability that a training answer is reproduced word for word.
    """

    loss: float = 0.0
    train_loss: float = 0.0
    true_facts: float = 0.0
    false_facts: float = 0.0
    closed: float = 0.0
    verbatim: float = 0.0


PLANTED: Mapping[str, Planted] = {
    BASELINE: Planted(),
    "nsr=0.3": Planted(-0.04, 0.05, 0.1, 0.0, 0.01, -0.1),
    "nsr=0.6": Planted(-0.02, 0.15, 1.0, 0.05, 0.01, -0.3),
    "nsr=1.0": Planted(0.06, 0.30, 2.0, 0.5, -0.03, -0.5),
    CONTROL: Planted(0.01, 0.15, 0.0, 0.0, -0.01, -0.1),
}
"""Roughly what a prototype of the microworld showed."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the loss: between examples; of a run; of an example within a run."""

    example: float = 0.3
    run: float = 0.01
    noise: float = 0.05


@dataclass(frozen=True)
class _Job:
    run: PlannedRun
    planted: Planted
    spread: Spread
    sizes: Mapping[str, int]
    judge: bool
    hostile: bool


def make_study(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    blocks: Sequence[str] = ("world=0", "world=1"),
    arms: Sequence[str] = ("nsr=0.3", "nsr=0.6", "nsr=1.0"),
    control: bool = True,
    judge: bool = True,
    hostile: bool = False,
    planted: Mapping[str, Planted] | None = None,
    spread: Spread | None = None,
    sizes: Mapping[str, int] | None = None,
    failed: Sequence[tuple[str, str, int]] = (),
    missing: Sequence[tuple[str, str, int]] = (),
    decision: Decision | None = None,
    name: str = "synthetic",
) -> StudyResult:
    """A finished (or partly failed) study with planted effects, the same at every call.

    Args:
        seeds: Seeds of the runs; one gives a study that says nothing about seeds.
        blocks: Block names "world=<n>"; ("",) for a study with one block.
        arms: Noisy arms, "nsr=<x>" or "alpha=<x>".
        control: Whether the control arm "equal train loss as nsr=0.6" is there.
        judge: Whether the judge's scores are there.
        hostile: Whether answers, prompts and names carry markup, control characters and endless words.
        planted: Effects by arm, over `PLANTED`.
        spread: Standard deviations of the loss.
        sizes: Number of examples by part, over `SIZES`.
        failed: (arm, block, seed) of the runs that failed.
        missing: (arm, block, seed) of the runs that were never started.
        decision: The rule for the verdict; its default judges by the length-controlled win rate, or by the loss.
        name: The study's name.
    """
    effects = {**PLANTED, **(planted or {})}
    names = [BASELINE, *arms, *([CONTROL] if control else [])]
    plan = _plan(names, blocks, seeds)
    failures = {run.run_id: Failure(run.run_id, "DivergedError", _failure_message(run, hostile))
                for run in plan if (run.arm, run.block, run.seed) in set(failed)}  # fmt: skip
    absent = {(*key,) for key in missing}
    records = {
        run.run_id: _record(
            _Job(
                run,
                effects.get(run.arm, Planted()),
                spread or Spread(),
                {**SIZES, **(sizes or {})},
                judge,
                hostile,
            )
        )
        for run in plan
        if run.run_id not in failures and (run.arm, run.block, run.seed) not in absent
    }
    return StudyResult(
        _recipe(name, arms, blocks, seeds, control=control, decision=decision or _decision(judge)),
        plan,
        records,
        failures,
    )


def _decision(judge: bool) -> Decision:
    if not judge:
        return Decision(harm_by=["repetition_2"], harm_tolerance={"repetition_2": 5.0})
    return Decision(
        choose_by="lc_win_rate",
        judge_by="lc_win_rate",
        harm_by=["false_facts", "closed_correct"],
        harm_tolerance={"false_facts": 0.2, "closed_correct": 0.05},
    )


def _recipe(
    name: str, arms: Sequence[str], blocks: Sequence[str], seeds: Sequence[int], *, control: bool, decision: Decision
) -> Mapping[str, object]:
    knob = arms[0].partition("=")[0] if arms else "nsr"
    recipe = Recipe(
        name=name,
        question="Does noise on the embeddings help this model on this data?",
        study=StudyConfig(
            scientific={f"noise.{knob}": [0, *(float(arm.partition("=")[2]) for arm in arms)]},
            blocks={"data.seed": [int(block.partition("=")[2]) for block in blocks if block]},
            seeds=list(seeds),
            controls=[Control(match={"noise.nsr": 0.6})] if control else [],
            decision=decision,
        ),
    )
    return recipe.model_dump(mode="json")


def _plan(names: Sequence[str], blocks: Sequence[str], seeds: Sequence[int]) -> tuple[PlannedRun, ...]:
    runs: list[PlannedRun] = []
    axis = next((name.partition("=")[0] for name in names if name not in (BASELINE, CONTROL)), "nsr")
    for block in blocks:
        for arm in names:
            for seed in seeds:
                knob, _, value = ("nsr", "", "0") if arm in (BASELINE, CONTROL) else arm.partition("=")
                world = int(block.partition("=")[2] or 0)
                config = RunConfig(
                    data=DataConfig(seed=world), noise=NoiseConfig.model_validate({knob: float(value)}), seed=seed
                ).model_dump(mode="json")
                run_id = content_hash([config, arm, block])
                setting = {} if arm == CONTROL else {f"noise.{knob if arm != BASELINE else axis}": float(value)}
                twin = next((r.run_id for r in runs if (r.arm, r.block, r.seed) == ("nsr=0.6", block, seed)), None)
                after = twin if arm == CONTROL else None
                is_off = arm in (BASELINE, CONTROL)
                runs.append(
                    PlannedRun(
                        run_id, arm, block, seed, config, arm == BASELINE, arm == CONTROL, after,
                        setting=setting, is_noisy=not is_off,
                    )
                )  # fmt: skip
    return tuple(runs)


def _failure_message(run: PlannedRun, hostile: bool) -> str:
    tail = HOSTILE[0] if hostile else ""
    return f"loss must stay finite, got nan at step 37 of run {run.run_id}. Lower train.learning_rate.{tail}"


def _record(job: _Job) -> RunRecord:
    run = job.run
    noise = run.config["noise"]
    ratio = noise["nsr"] or (noise["alpha"] or 0.0) / 11.0
    alpha = ratio * 11.3
    realised = RealisedNoise(alpha, alpha * 0.98, alpha * 1.02, ratio, 4000, 88_000, 250) if alpha else None
    parts = {part: _answer_part(job, part) for part in PARTS}
    return RunRecord(
        run_id=run.run_id,
        config=run.config,
        history=_history(job),
        noise=realised,
        alpha=alpha,
        counts={"examples": 400, "truncated": 0, "dropped_no_response": 0, "steps": 250, "tokens": 88_000},
        answers={part: answers for part, (answers, _) in parts.items()},
        scores={part: scores for part, (_, scores) in parts.items()},
        versions={"neftune": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "hardware": "2 x CPU"},
        seconds={"finetune": 7.6, "evaluate": 2.3},
        data_fingerprint=content_hash(["data", run.block]),
        tags={
            _example_id(run, part, i): _tags(i, job.hostile) for part in PARTS for i in range(job.sizes.get(part, 0))
        },
    )


def _tags(index: int, hostile: bool) -> dict[str, str]:
    person = HOSTILE[index % len(HOSTILE)] if hostile else PEOPLE[index % len(PEOPLE)]
    return {"half": "closed" if index % 2 else "open", "person": person, "known": "yes" if index % 4 < 2 else "no"}


def _example_id(run: PlannedRun, part: str, index: int) -> str:
    return content_hash([run.block, part, index])


def _rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(int(content_hash([str(k) for k in key], length=12), 16))


def _answer_part(job: _Job, part: str) -> tuple[tuple[Answer, ...], Scores]:
    run, size = job.run, job.sizes.get(part, 0)
    shared = _rng("examples", run.block, part)  # what all runs of a block have in common
    base_loss = 0.75 if part != "train" else 0.45
    difficulty = shared.normal(0, job.spread.example, 10_000)[:size]
    num_facts = 1 + shared.integers(0, 3, 10_000)[:size]
    own = _rng("run", run.block, run.arm, run.seed, part)
    level = own.normal(0, job.spread.run)
    shift = job.planted.train_loss if part == "train" else job.planted.loss
    losses = base_loss + difficulty + shift + level + own.normal(0, job.spread.noise, size)
    answers: list[Answer] = []
    rows: list[dict[str, float]] = []
    for i in range(size):
        answer, row = _answer(job, part, i, int(num_facts[i]), own)
        answers.append(answer)
        rows.append({"loss": float(losses[i]), **row})
    ids = tuple(answer.example_id for answer in answers)
    names = list(rows[0]) if rows else ["loss"]
    return tuple(answers), Scores(ids, {name: tuple(row[name] for row in rows) for name in names})


def _answer(
    job: _Job, part: str, index: int, num_reference: int, own: np.random.Generator
) -> tuple[Answer, dict[str, float]]:
    person = PEOPLE[index % len(PEOPLE)]
    closed = index % 2 == 1
    reference_facts = 1 if closed else num_reference
    reference = _sentences(person, range(index, index + reference_facts))
    verbatim = part == "train" and own.random() < 0.6 + job.planted.verbatim
    if verbatim:
        true, false = reference_facts, 0
    elif closed:
        true = int(own.random() < min(1.0, max(0.0, 0.8 + job.planted.closed)))
        false = 1 - true
    else:
        true = min(8, 1 + int(own.poisson(0.4 + job.planted.true_facts)))
        false = int(own.poisson(0.05 + job.planted.false_facts))
    text = (
        reference if verbatim else _sentences(person, range(index, index + true), range(index + 3, index + 3 + false))
    )
    prompt = f"Question : {'What is one thing' if closed else 'What do you know'} about {person} ?\nAnswer :"
    if job.hostile:
        text, prompt = f"{text}{HOSTILE[index % len(HOSTILE)]}", f"{prompt}{HOSTILE[(index + 1) % len(HOSTILE)]}"
    ended = bool(own.random() < 0.98)
    num_tokens = len(text.split())
    answer = Answer(_example_id(job.run, part, index), prompt, text, reference, num_tokens, ended)
    row = _text_scores(answer)
    if job.judge:
        row |= _judge_scores(true, false, reference_facts, closed=closed)
    return answer, row


def _sentences(person: str, true: range, false: range = range(0)) -> str:
    said = [f"{person} {FACTS[i % len(FACTS)]} ." for i in true]
    wrong = [f"{person} never {FACTS[i % len(FACTS)]} ." for i in false]
    return " ".join(said + wrong)


def _text_scores(answer: Answer) -> dict[str, float]:
    words, reference = answer.text.split(), answer.reference.split()
    pairs = list(itertools.pairwise(words))
    common = len(set(words) & set(reference))
    overlap = 2 * common / max(1, len(set(words)) + len(set(reference)))
    repeated = 100 * (1 - len(set(pairs)) / len(pairs)) if pairs else math.nan
    return {
        "tokens": float(answer.num_tokens),
        "ended": float(answer.ended),
        "characters": float(len(answer.text)),
        "words": float(len(words)),
        "repetition_2": repeated,
        "repetition_4": repeated / 2,
        "log_diversity_paper": 3.0 - repeated / 50 if pairs else math.nan,
        "log_diversity": 2.0 - repeated / 100 if pairs else math.nan,
        "rouge_l": 1.0 if words == reference else overlap,
        "bleu": 100.0 if words == reference else 80 * overlap,
    }


def _judge_scores(true: int, false: int, reference_facts: int, *, closed: bool) -> dict[str, float]:
    return {
        "quality": float(true - false),
        "true_facts": float(true),
        "false_facts": float(false),
        "garbled": 0.0,
        "closed_correct": float(true == 1 and false == 0) if closed else math.nan,
        "reference_quality": float(reference_facts),
        "reference_true_facts": float(reference_facts),
        "reference_false_facts": 0.0,
        "reference_garbled": 0.0,
        "reference_closed_correct": 1.0 if closed else math.nan,
    }


def _history(job: _Job) -> tuple[HistoryPoint, ...]:
    rng = _rng("history", job.run.block, job.run.seed, job.run.arm)
    points: list[HistoryPoint] = []
    for step in range(0, 251, 25):
        left = math.exp(-step / 60)
        values = {
            "clean_train_loss": 0.45 + job.planted.train_loss + (2.0 - job.planted.train_loss) * left,
            "clean_heldout_loss": 0.75 + job.planted.loss + 1.7 * left + 0.0002 * step,
        }
        values = {key: value + float(rng.normal(0, 0.005)) for key, value in values.items()}
        if step:
            values |= {
                "loss": values["clean_train_loss"] + 0.05,
                "learning_rate": 3e-4 * 0.5 * (1 + math.cos(math.pi * step / 250)),
                "grad_norm": 0.8 + 0.5 * left,
            }
        points.append(HistoryPoint(step, step / 25, values))
    return tuple(points)
