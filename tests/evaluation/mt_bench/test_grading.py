"""MT-Bench's judge prompts and scores against the ones that FastChat wrote, and files that are wrong."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from neftune.errors import DataError
from neftune.evaluation.mt_bench.answers import read_answers
from neftune.evaluation.mt_bench.grading import grade_requests, render_judge_prompt
from neftune.evaluation.mt_bench.judgments import read_judgments, write_judgments
from neftune.evaluation.mt_bench.parsing import parse_score
from neftune.evaluation.mt_bench.questions import Question, find_files, read_bench
from neftune.evaluation.mt_bench.scores import mean_scores
from neftune.evaluation.preference.endpoint import ChatSettings
from tests.bench_files import PROMPTS, QUESTIONS, REFERENCES, real_bench, small_bench, write_lines

JUDGE = ChatSettings("gpt-4", 0.0, 2048)


def real_judgments(shared: Path) -> list[dict[str, Any]]:
    path = shared / "data" / "chat_eval" / "mt_bench_judgments_gpt-4_single.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def answers_in(prompt: str, template: str, known: dict[str, str]) -> tuple[str, str]:
    """The answers that a rendered prompt holds, found by everything else in it."""
    pattern = ""
    for piece in re.split(r"(\{\w+\})", template):
        name = piece[1:-1] if re.fullmatch(r"\{\w+\}", piece) else ""
        pattern += f"(?P<{name}>.*)" if name and name not in known else re.escape(known.get(name, piece))
    found = re.fullmatch(pattern, prompt, re.DOTALL)
    assert found, prompt
    groups = found.groupdict()
    return groups.get("answer_1", groups.get("answer", "")), groups.get("answer_2", "")


def test_scores_equal_fastchats_and_the_unparsable_are_counted(shared: Path):
    rows = real_judgments(shared)
    scores = [parse_score(row["judgment"]) for row in rows]
    assert [-1 if score is None else score for score in scores] == [float(row["score"]) for row in rows]
    assert len(scores) == 640
    assert scores.count(None) == 120
    categories = {one.id: one.category for one in real_bench(shared).questions}
    path = shared / "data" / "chat_eval" / "mt_bench_judgments_gpt-4_single.jsonl.gz"
    means = {model: mean_scores(grades) for model, grades in read_judgments(path, categories).items()}
    assert means["vicuna-7b-v1.3"].overall.score == pytest.approx(6.103, abs=5e-4)
    granite = means["granite-7b-lab"].overall
    assert (granite.num_scored, granite.num_unparsed, granite.num_missing) == (40, 120, 0)
    assert granite.score == pytest.approx(7.4)


@pytest.mark.parametrize(
    ("verdict", "score"),
    [
        ("Rating: [[7]]", 7),
        ("[[8.5]] and [[2]]", 8.5),
        ("[3] then [[9]]", 9),
        ("Rating: [6]", 6),
        ("Rating: [[rating]]", None),
        ("Rating: 7", None),
        ("[[7/10]]", None),
        ("[[-1]]", None),
        ("[[08]]", 8),
        ("", None),
    ],
)
def test_a_score_by_hand(verdict: str, score: float | None):
    assert parse_score(verdict) == score


def test_prompts_equal_fastchats_where_the_answers_are_known(shared: Path):
    bench = real_bench(shared)
    path = shared / "data" / "chat_eval" / "mt_bench_model_answers.jsonl.gz"
    answers = read_answers(path, bench.questions, model="vicuna-7b-v1.3")
    ours = {(one.question.id, one.turn): one for one in grade_requests(bench, answers, JUDGE, server="")}
    rows = [row for row in real_judgments(shared) if row["model"] == "vicuna-7b-v1.3"]
    same = 0
    for row in rows:
        one = ours[str(row["question_id"]), int(row["turn"])]
        assert one.prompt.name == row["judge"][1]
        same += one.user_prompt == row["user_prompt"]
    # The other 39 were judged on answers of another generation.
    assert (same, len(rows)) == (121, 160)


def test_prompts_equal_fastchats_from_their_own_answers(shared: Path):
    bench = real_bench(shared)
    questions = {one.id: one for one in bench.questions}
    for row in real_judgments(shared):
        question, prompt = questions[str(row["question_id"])], bench.prompts[row["judge"][1]]
        known = {"question": question.turns[0], "question_1": question.turns[0], "question_2": question.turns[1]}
        reference = bench.references.get(question.id)
        if reference:
            known |= {"ref_answer_1": reference[0], "ref_answer_2": reference[1]}
        answers = answers_in(row["user_prompt"], prompt.template, known)
        assert render_judge_prompt(prompt, question, answers, reference) == row["user_prompt"]


def test_what_the_judge_is_asked(tmp_path: Path):
    bench = read_bench(*find_files(small_bench(tmp_path)))
    path = write_lines(
        tmp_path / "answers.jsonl",
        [
            {"question_id": 81, "model_id": "ours", "choices": [{"index": 0, "turns": ["{red}", "grey"]}]},
            {"question_id": 111, "model_id": "ours", "choices": [{"index": 0, "turns": ["door", ""]}]},
        ],
    )
    asked = grade_requests(bench, read_answers(path, bench.questions), JUDGE, server="s")
    assert [(one.question.id, one.turn, one.prompt.name, one.user_prompt) for one in asked] == [
        ("81", 1, "single-v1", "which hat is red ?|{red}"),
        ("111", 1, "single-math-v1", "a {door}|what is the door ?|door"),
        ("81", 2, "single-v1-multi-turn", "which hat is red ?|{red}|what colour is the cat ?|grey"),
        ("111", 2, "single-math-v1-multi-turn", "a cup|what is the door ?|door|which cup is blue ?|"),
    ]
    assert [[turn.role for turn in one.request.turns] for one in asked] == [["system", "user"]] * 2 + [
        ["user"],
        ["system", "user"],
    ]
    elsewhere = grade_requests(bench, read_answers(path, bench.questions), JUDGE, server="t")
    other = grade_requests(bench, read_answers(path, bench.questions), ChatSettings("gpt-5", 0.0, 2048), server="s")
    keys = {one.request.id for one in (*asked, *elsewhere, *other)}
    assert len(keys) == 12, "another server or judge is never answered by this one's verdicts"


def bench_with(folder: Path, **files: list[Any]) -> None:
    small_bench(folder)
    places = {"questions": "mt_bench/question.jsonl", "prompts": "judge_prompts.jsonl"}
    places["references"] = "mt_bench/reference_answer/gpt-4.jsonl"
    for name, rows in files.items():
        write_lines(folder / places[name], rows)
    read_bench(*find_files(folder))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"questions": ["{"]}, r"question.jsonl:1: a line must be one JSON object"),
        ({"questions": []}, "needs questions, got none"),
        ({"questions": [{**QUESTIONS[0], "turns": ["one"]}]}, "question 81 must have two turns"),
        ({"questions": [{**QUESTIONS[0], "turns": ["one", None]}]}, "question 81 must have two turns"),
        ({"questions": [{**QUESTIONS[0], "category": ""}]}, "question 81 must have a category"),
        ({"questions": [QUESTIONS[0], QUESTIONS[0]]}, r"jsonl:2: each question must stand once, got question 81"),
        ({"questions": [{"turns": ["a", "b"]}]}, "must have a question_id"),
        ({"prompts": PROMPTS[:3]}, "lacks single-math-v1-multi-turn"),
        ({"prompts": [{"name": "single-v1", "system_prompt": "s"}]}, "must have system_prompt and prompt_template"),
        ({"references": []}, "need a reference answer, got none for 1 in .* for question 111"),
        ({"references": REFERENCES * 2}, "question 111 a second time"),
        ({"references": [{"question_id": 111, "choices": []}]}, "both turns as texts, got none"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, files: dict[str, list[Any]], said: str):
    with pytest.raises(DataError, match=said):
        bench_with(tmp_path, **files)


def test_a_folder_that_is_not_fastchats(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no .*question\.jsonl, no .*judge_prompts\.jsonl"):
        find_files(tmp_path)


def test_answers_that_cannot_be_graded_are_named(tmp_path: Path):
    questions = (Question("81", "writing", ("a", "b")), Question("82", "writing", ("c", "d")))
    whole = {"question_id": 81, "turns": ["x", "y"], "model": "one"}

    def read(*rows: Any, model: str = "") -> Any:
        return read_answers(write_lines(tmp_path / "answers.jsonl", list(rows)), questions, model=model)

    with pytest.raises(DataError, match=r"got none for 1 of 2 in .*, the first for question 82"):
        read(whole)
    with pytest.raises(DataError, match=r"jsonl:2: an answer must have both turns as texts, got 1 for question 82"):
        read(whole, {"question_id": 82, "turns": ["x"]})
    with pytest.raises(DataError, match=r"jsonl:2: each question must be answered once, got question 81"):
        read(whole, {**whole, "model": "two"})
    both = [{**whole, "question_id": key, "model": name} for name in ("one", "two") for key in (81, 82)]
    assert read(*both, model="two").model == "two"
    with pytest.raises(DataError, match="got none for 2 of 2"):
        read(*both, model="three")


def test_a_template_with_a_foreign_placeholder(tmp_path: Path):
    small_bench(tmp_path)
    write_lines(tmp_path / "judge_prompts.jsonl", [{**one, "prompt_template": "{wrong}"} for one in PROMPTS])
    bench = read_bench(*find_files(tmp_path))
    with pytest.raises(DataError, match="judge prompt single-v1 may hold the placeholders question, answer"):
        render_judge_prompt(bench.prompts["single-v1"], bench.questions[0], ("a", "b"), None)


def test_judgments_written_and_read_are_the_same(shared: Path, tmp_path: Path):
    categories = {one.id: one.category for one in real_bench(shared).questions}
    path = shared / "data" / "chat_eval" / "mt_bench_judgments_gpt-4_single.jsonl.gz"
    grades = read_judgments(path, categories)["granite-7b-lab"]
    write_judgments(tmp_path / "j.jsonl", grades, model="m", judge="gpt-4")
    assert read_judgments(tmp_path / "j.jsonl", categories) == {"m": grades}
    write_lines(tmp_path / "k.jsonl", [{"question_id": 1, "turn": 1, "judgment": "x"}])
    with pytest.raises(DataError, match=r"jsonl:1: a judgment must have a known question_id"):
        read_judgments(tmp_path / "k.jsonl", categories)
