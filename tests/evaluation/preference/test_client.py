"""The client against a server that does everything wrong, over real HTTP."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from neftune.errors import ConfigError, EndpointError
from neftune.evaluation.preference.client import ChatClient
from neftune.evaluation.preference.endpoint import ChatRequest, ChatSettings, Endpoint, Unanswered
from neftune.evaluation.preference.replies import Completion
from neftune.records import Turn
from tests.evaluation.preference.hostile import MOODS, HostileServer, completion, moody

KEY = "sk-secret-0123456789"
SETTINGS = ChatSettings("judge-1", max_tokens=9)
HELLO = (Turn("system", "Be brief."), Turn("user", "Hello?"))


def quick(url: str, **changes: Any) -> Endpoint:
    return Endpoint(**{"base_url": url, "timeout": 5.0, "first_wait": 0.01, "longest_wait": 5.0} | changes)


def requests(num: int, settings: ChatSettings = SETTINGS) -> list[ChatRequest]:
    return [ChatRequest(str(i), (Turn("user", f"prompt {i}"),), settings) for i in range(num)]


def ask(endpoint: Endpoint, asked: Any) -> dict[str, Completion | Unanswered]:
    found: dict[str, Completion | Unanswered] = {}

    def keep(request: ChatRequest, result: Completion | Unanswered) -> None:
        assert request.id not in found
        found[request.id] = result

    ChatClient(endpoint).complete_many(asked, keep)
    return found


def test_an_answer_and_what_was_sent_for_it():
    settings = ChatSettings("judge-1", max_tokens=9, seed=3, top_logprobs=5, stop=("\n",), extra={"top_k": 1})
    with HostileServer(answer=lambda body: completion("m", {"m": -0.1, "M": -2.5})) as server:
        found = ChatClient(quick(server.url)).complete(HELLO, settings)
    assert found == Completion("m", {"m": -0.1, "M": -2.5}, 10, 3, "stop", "hostile-1")
    assert server.asked == [
        {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
            "model": "judge-1",
            "temperature": 0.0,
            "max_tokens": 9,
            "seed": 3,
            "logprobs": True,
            "top_logprobs": 5,
            "stop": ["\n"],
            "top_k": 1,
        }
    ]


@pytest.mark.parametrize("mood", MOODS)
def test_every_fault_is_waited_out(mood: str):
    with HostileServer(lambda body, before: mood if before < 2 else "answer") as server:
        found = ChatClient(quick(server.url, timeout=0.4)).complete(HELLO, SETTINGS)
    assert found.text.startswith("[{'model'")
    assert found.attempts == len(server.asked) == 3


def test_many_requests_under_all_faults_at_once():
    with HostileServer(moody(MOODS, 0.3)) as server:
        found = ask(quick(server.url, timeout=1.0, concurrency=16), requests(200))
    assert len(found) == 200
    assert all(isinstance(one, Completion) for one in found.values())
    assert server.most_at_once >= 4
    assert len(server.answered) == 200


def test_no_more_at_a_time_than_allowed():
    with HostileServer() as server:
        ask(quick(server.url, concurrency=3), requests(30))
    assert server.most_at_once <= 3


def test_a_429_makes_everyone_wait_and_is_no_failure_while_others_are_answered():
    busy: list[int] = []

    def mood(body: dict[str, Any], before: int) -> str:
        busy.append(1)
        return "429 at once" if len(busy) % 3 else "answer"  # two of three, for ever

    with HostileServer(mood) as server:
        found = ask(quick(server.url, concurrency=4, attempts=6), requests(100))
    assert all(isinstance(one, Completion) for one in found.values())


def test_the_pause_a_server_asks_for_holds_for_all_requests():
    seen: list[int] = []

    def mood(body: dict[str, Any], before: int) -> Any:
        if body["messages"][0]["content"] != "prompt 0":
            return "answer"
        seen.append(len(server.asked))
        return "answer" if before else (429, {"error": {"message": "wait"}}, {"Retry-After": "1"})

    with HostileServer(mood) as server:
        found = ask(quick(server.url, concurrency=4), requests(200))
    assert len(found) == 200
    # Without the common pause three of four connections would have taken all the others meanwhile.
    assert seen[1] < 100


def test_the_pause_a_server_asks_for_is_told_and_a_long_one_stops_the_work():
    told: list[tuple[str, float]] = []
    reply = (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.2"})
    with HostileServer(lambda body, before: reply if before < 1 else "answer") as server:
        ChatClient(quick(server.url), on_retry=lambda *said: told.append(said)).complete(HELLO, SETTINGS)
    assert told[0][0] == "status 429: slow down"
    assert told[0][1] >= 0.2
    hour = (429, {"error": {"message": "come back later"}}, {"Retry-After": "3600"})
    with HostileServer(lambda body, before: hour) as server:
        with pytest.raises(EndpointError, match=r"asks for a pause of 3600 seconds: status 429: come back later"):
            ChatClient(quick(server.url)).complete(HELLO, SETTINGS)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, "Incorrect API key provided: [key]"),
        (401, {"error": {"message": "x" * 285 + KEY}}, "xxx[key]"),  # not cut in two and half shown
        (404, {"error": {"message": "The model `judge-1` does not exist"}}, "Check the model's name and the base URL"),
        (400, {"detail": "temperature is not supported"}, "status 400: temperature is not supported"),
        (403, {"error": "not allowed"}, "status 403: not allowed"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "status 429: pay"),
        (422, b"<p>no\nmodel</p>", "status 422: <p>no model</p>"),
    ],
)
def test_what_no_attempt_can_mend_stops_at_once(
    status: int, body: Any, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(0)
    with HostileServer(lambda _, before: (status, body)) as server:
        with pytest.raises(EndpointError) as raised:
            ask(quick(server.url, key_variable="JUDGE_KEY", concurrency=4), requests(40))
        assert 1 <= len(server.asked) <= 4
    assert said in str(raised.value)
    assert "What was answered is kept" in str(raised.value)
    assert KEY not in str(raised.value) + caplog.text
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, {"error": {"message": "too much", "code": "context_length_exceeded"}}, "prompt_too_long"),
        (400, {"message": "This model's maximum context length is 64 tokens."}, "prompt_too_long"),
        (400, {"error": {"type": "exceed_context_size_error", "message": "no"}}, "prompt_too_long"),
        (413, b"", "prompt_too_long"),
        (400, {"error": {"message": "no", "code": "content_filter"}}, "refused"),
        (500, {"error": {"message": "CUDA error"}}, "failed"),
    ],
)
def test_one_bad_prompt_does_not_stop_the_others(status: int, body: Any, reason: str):
    def mood(request: dict[str, Any], before: int) -> Any:
        return (status, body) if request["messages"][0]["content"] == "prompt 7" else "answer"

    # The others outlast the attempts of the bad one.
    with HostileServer(mood) as server:
        found = ask(quick(server.url, concurrency=2, attempts=3, first_wait=0.001), requests(300))
    bad = found.pop("7")
    assert isinstance(bad, Unanswered)
    assert bad.reason == reason
    assert f"status {status}" in bad.said
    assert len(found) == 299
    assert all(isinstance(one, Completion) for one in found.values())


def test_a_dead_server_ends_in_one_message():
    with HostileServer() as server:
        url = server.url
    with pytest.raises(EndpointError, match=r"after 3 attempts, with nobody answered meanwhile: the connection failed"):
        ask(quick(url, attempts=3), requests(10))


def test_a_server_that_dies_in_the_middle_keeps_what_was_answered():
    found: list[str] = []
    with HostileServer() as server:

        def keep(request: ChatRequest, result: Completion | Unanswered) -> None:
            if isinstance(result, Completion):
                found.append(request.id)
            if len(found) == 10:
                server.mood = lambda body, before: "close"

        with pytest.raises(EndpointError, match="the same command goes on"):
            ChatClient(quick(server.url, attempts=2)).complete_many(requests(50), keep)
    assert 10 <= len(found) < 50
    assert len(found) == len(server.answered)


def test_a_server_that_ignores_logprobs_is_one_error_at_the_first_answer():
    settings = ChatSettings("judge-1", top_logprobs=5)
    with HostileServer() as server:
        with pytest.raises(EndpointError, match=r"without the log-probabilities that were asked for .*ranking"):
            ask(quick(server.url, concurrency=1), requests(40, settings))
        assert len(server.asked) == 1


def test_an_empty_answer_is_an_answer():
    with HostileServer(answer=lambda body: completion("", None)) as server:
        found = ChatClient(quick(server.url)).complete(HELLO, ChatSettings("judge-1", top_logprobs=5))
    assert (found.text, found.first_token) == ("", None)


def test_odd_text_comes_through():
    odd = "a\ud800b \u2028 😀 \x00"
    with HostileServer(answer=lambda body: completion(body["messages"][0]["content"])) as server:
        found = ChatClient(quick(server.url)).complete([Turn("user", odd)], SETTINGS)
    assert found.text == "a\ufffdb \u2028 😀 \x00"


def test_requests_are_taken_one_by_one_and_may_end_early():
    taken: list[int] = []
    finished: list[str] = []

    def budgeted() -> Iterator[ChatRequest]:
        for number, request in enumerate(requests(100)):
            if len(finished) >= 5:
                return
            taken.append(number)
            yield request

    with HostileServer() as server:
        ChatClient(quick(server.url, concurrency=2)).complete_many(budgeted(), lambda one, _: finished.append(one.id))
    assert len(finished) == len(taken) <= 7


def test_what_the_callback_raises_stops_the_work():
    with HostileServer() as server:
        with pytest.raises(ZeroDivisionError):
            ChatClient(quick(server.url)).complete_many(requests(50), lambda *_: 1 / 0)
        assert len(server.asked) <= 16


def test_it_works_inside_a_running_event_loop():
    async def notebook() -> str:
        return ChatClient(quick(server.url)).complete(HELLO, SETTINGS).text

    with HostileServer() as server:
        assert asyncio.run(notebook())


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with HostileServer() as server:
        ChatClient(quick(server.url)).complete(HELLO, SETTINGS)
    assert KEY not in json.dumps(server.headers)
    assert "authorization" not in server.headers[0]
    assert Endpoint().key() == KEY
    assert KEY not in repr(Endpoint())
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match=r"variable OPENAI_API_KEY must hold the key for https://api.openai.com/v1"):
        ChatClient(Endpoint())


def test_a_key_that_a_server_repeats_in_an_answer_is_blotted_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with HostileServer(answer=lambda body: completion(f"Your key is {KEY}.", {KEY: -0.5})) as server:
        client = ChatClient(quick(server.url, key_variable="JUDGE_KEY"))
        found = client.complete(HELLO, ChatSettings("judge-1", top_logprobs=5))
    assert (found.text, found.first_token) == ("Your key is [key].", {"[key]": -0.5})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Endpoint("localhost:8000"), "base_url must be like"),
        (lambda: Endpoint("http://me:hunter2@host/v1"), "no user, password or query"),
        (lambda: Endpoint("http://host/v1?key=hunter2"), "no user, password or query"),
        (lambda: Endpoint(concurrency=0), "concurrency must be >= 1"),
        (lambda: Endpoint(timeout=float("nan")), "timeout must be > 0"),
        (lambda: Endpoint("http://host/v1", "NO_SUCH_KEY").key(), "variable NO_SUCH_KEY must hold the key"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], object], said: str):
    with pytest.raises(ConfigError, match=said) as raised:
        make()
    assert "hunter2" not in str(raised.value)
