"""Answers -> grades: judge prompts as FastChat writes them, verdicts kept before they count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neftune.errors import DataError, EndpointError
from neftune.evaluation.mt_bench.answers import Answers
from neftune.evaluation.mt_bench.parsing import parse_score
from neftune.evaluation.mt_bench.questions import WITH_REFERENCE, Bench, JudgePrompt, Question
from neftune.evaluation.preference.client import ChatClient
from neftune.evaluation.preference.endpoint import ChatRequest, ChatSettings, Unanswered
from neftune.evaluation.preference.replies import Completion
from neftune.evaluation.preference.verdicts import VerdictStore, answer_key
from neftune.records import Turn

MAX_TOKENS = 2048
"""Longest verdict, as FastChat asks GPT-4."""


@dataclass(frozen=True, slots=True)
class GradeRequest:
    """One answer to be graded: which, and what the judge is asked."""

    question: Question
    turn: int
    prompt: JudgePrompt
    user_prompt: str
    request: ChatRequest


@dataclass(frozen=True, slots=True)
class Grade:
    """What became of one answer.

    Attributes:
        question_id, category, turn: Which answer; turn is 1 or 2.
        prompt_name: The judge prompt.
        user_prompt: What the judge was asked.
        judgment: The judge's words; None where there are none.
        score: The score in them, 1 to 10 as asked for; None where there is none to be read.
        said: Why there are no words; "" where there are.
    """

    question_id: str
    category: str
    turn: int
    prompt_name: str
    user_prompt: str
    judgment: str | None
    score: float | None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Graded:
    """All grades, and why the work ended early ("" where it did not)."""

    grades: tuple[Grade, ...]
    stopped_by: str = ""


def grade_requests(bench: Bench, answers: Answers, settings: ChatSettings, *, server: str) -> tuple[GradeRequest, ...]:
    """What is asked about every answer: the first turns, then the second ones, as FastChat does.

    Args:
        bench: Questions, judge prompts and references.
        answers: The model's answers.
        settings: The judge's model and how it samples.
        server: The server's name in the store's keys.

    Raises:
        DataError: A template with a placeholder that FastChat does not fill.
    """
    found: list[GradeRequest] = []
    for turn in (1, 2):
        for question in bench.questions:
            prompt = _prompt_for(bench, question, turn)
            text = render_judge_prompt(prompt, question, answers.turns[question.id], bench.references.get(question.id))
            system = (Turn("system", prompt.system),) if prompt.system else ()
            turns = (*system, Turn("user", text))
            request = ChatRequest(answer_key(server, settings, turns), turns, settings)
            found.append(GradeRequest(question, turn, prompt, text, request))
    return tuple(found)


def render_judge_prompt(
    prompt: JudgePrompt, question: Question, answers: tuple[str, str], reference: tuple[str, str] | None
) -> str:
    """What the judge reads; a template takes the placeholders that it has.

    Raises:
        DataError: A placeholder that FastChat does not fill.

    Source: lm-sys/FastChat, fastchat/llm_judge/common.py, run_judge_single.
    """
    filled = {
        "question": question.turns[0],
        "answer": answers[0],
        "question_1": question.turns[0],
        "question_2": question.turns[1],
        "answer_1": answers[0],
        "answer_2": answers[1],
    }
    if reference is not None:
        filled |= {"ref_answer_1": reference[0], "ref_answer_2": reference[1]}
    try:
        return prompt.template.format(**filled)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DataError(
            f"judge prompt {prompt.name} may hold the placeholders {', '.join(filled)}, got another or a broken one: "
            f"{error}. Use FastChat's judge_prompts.jsonl."
        ) from error


def grade(
    requests: Sequence[GradeRequest],
    client: ChatClient,
    store: VerdictStore,
    *,
    server: str,
    on_progress: Callable[[int], None] | None = None,
) -> Graded:
    """Ask for the verdicts that are not there yet, and read all of them.

    Args:
        requests: What is asked.
        client: The judge's server.
        store: Where verdicts are kept before they count.
        server: The server's name.
        on_progress: Called with how many verdicts are there.

    Raises:
        StoreError: A verdict cannot be kept.
    """
    wanted = {one.request.id: one.request for one in requests}
    verdicts: dict[str, Completion | Unanswered] = dict(store.get_many(wanted))
    report = on_progress or (lambda _: None)
    report(len(verdicts))

    def take_in(request: ChatRequest, result: Completion | Unanswered) -> None:
        if isinstance(result, Completion):
            store.put(request.id, result, server=server, model=request.settings.model)
        verdicts[request.id] = result
        report(len(verdicts))

    stopped_by = ""
    try:
        client.complete_many([one for key, one in wanted.items() if key not in verdicts], take_in)
    except EndpointError as error:
        stopped_by = str(error)
    return Graded(tuple(_grade(one, verdicts.get(one.request.id)) for one in requests), stopped_by)


def _grade(asked: GradeRequest, verdict: Completion | Unanswered | None) -> Grade:
    words = verdict.text if isinstance(verdict, Completion) else None
    said = "not asked" if verdict is None else verdict.said if isinstance(verdict, Unanswered) else ""
    return Grade(
        question_id=asked.question.id,
        category=asked.question.category,
        turn=asked.turn,
        prompt_name=asked.prompt.name,
        user_prompt=asked.user_prompt,
        judgment=words,
        score=None if words is None else parse_score(words),
        said=said,
    )


def _prompt_for(bench: Bench, question: Question, turn: int) -> JudgePrompt:
    math = "-math" if question.category in WITH_REFERENCE else ""
    return bench.prompts[f"single{math}-v1{'-multi-turn' if turn == 2 else ''}"]
