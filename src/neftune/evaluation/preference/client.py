"""Chat with any OpenAI-compatible server: many requests at a time, every fault of a server survived or said.

What a fault does:

- Waited out and asked again, up to `Endpoint.attempts` times: no connection, a connection that breaks, no whole answer
  within `Endpoint.timeout`, status 408, 409, 425, 429 or 5xx, a body that is not a chat completion.
- Given up for this request alone (an `Unanswered`): a prompt longer than the model's context, one that the server's
  filter refuses, or all attempts used up while other requests were answered.
- Stops the work: any other 4xx (a wrong key, model or setting), a quota used up, a server that ignores the wish for
  log-probabilities, or all attempts used up while nobody was answered. Requests on their way are still taken in.

The openai library's own retries are off: they set no limit on a whole answer's time (a server that sends a byte a
second holds them for ever), do not retry a broken body, and cannot make all requests wait when one is told to.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from neftune.errors import EndpointError, MissingExtraError
from neftune.evaluation.preference.endpoint import ChatRequest, ChatSettings, Endpoint, Unanswered
from neftune.evaluation.preference.replies import Completion, Trouble, read_completion, status_trouble
from neftune.records import Turn

OnDone = Callable[[ChatRequest, Completion | Unanswered], None]
OnRetry = Callable[[str, float], None]


class ChatClient:
    """Sends conversations to one server.

    Args:
        endpoint: The server; its key is read from the environment here.
        on_retry: Called with what went wrong and the seconds until the next attempt.

    Raises:
        ConfigError: There is no key where one is needed.
        MissingExtraError: The openai library is not installed.
    """

    def __init__(self, endpoint: Endpoint, *, on_retry: OnRetry | None = None) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("asking a server needs openai: pip install 'neftune[eval]'") from error
        self._openai = openai
        self._key = endpoint.key()
        self.endpoint = endpoint
        self.on_retry = on_retry

    def complete(self, turns: Sequence[Turn], settings: ChatSettings) -> Completion:
        """The answer to one conversation.

        Raises:
            EndpointError: There was none, see the module's first lines.
        """
        found: list[Completion | Unanswered] = []
        self.complete_many([ChatRequest("", tuple(turns), settings)], lambda _, result: found.append(result))
        if isinstance(found[0], Unanswered):
            raise EndpointError(f"{self.endpoint.base_url} must answer, got: {found[0].said}")
        return found[0]

    def complete_many(self, requests: Iterable[ChatRequest], on_done: OnDone) -> None:
        """Answers many conversations, several at a time, in no fixed order.

        Args:
            requests: Taken one by one as there is room, so an iterator may end early (a budget used up); what is on
                its way then is still taken in.
            on_done: Called in the caller's thread as each finishes; what it raises stops everything at once.

        Raises:
            EndpointError: The work was stopped, see the module's first lines.
        """
        _run(lambda: self._answer_all(iter(requests), on_done))

    async def _answer_all(self, requests: Iterator[ChatRequest], on_done: OnDone) -> None:
        """Open connections, let `concurrency` workers share the requests, raise what stopped them."""
        async with self._openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.endpoint.base_url,
            timeout=self.endpoint.timeout,
            max_retries=0,
        ) as server:
            session = _Session(self, server, on_done)
            workers = [asyncio.create_task(session.work(requests)) for _ in range(self.endpoint.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        if session.stopped_by is not None:
            raise session.stopped_by


class _Session:
    """The state that requests of one call share: whether to stop, how long all must pause, how many were answered."""

    def __init__(self, client: ChatClient, server: Any, on_done: OnDone) -> None:
        self.client, self.endpoint, self.server, self.on_done = client, client.endpoint, server, on_done
        self.stopped_by: EndpointError | None = None
        self.stopped = asyncio.Event()
        self.pause_until = 0.0
        self.num_answered = 0

    async def work(self, requests: Iterator[ChatRequest]) -> None:
        """Answer requests until there are no more, or the work stops."""
        while not self.stopped.is_set():
            request = next(requests, None)
            if request is None:
                return
            result = await self._answer(request)
            if result is not None:
                self.on_done(request, result)

    async def _answer(self, request: ChatRequest) -> Completion | Unanswered | None:
        """Attempts until there is a result; None where the work was stopped before."""
        before = last = self.num_answered
        failures = num_sent = 0
        while await self._pause(self.pause_until - time.monotonic()):
            num_sent += 1
            outcome = await self._attempt(request)
            if isinstance(outcome, Completion):
                self.num_answered += 1
                return replace(outcome, attempts=num_sent)
            if outcome.kind in ("prompt_too_long", "refused"):
                return Unanswered(outcome.kind, outcome.said)
            if outcome.kind == "stop":
                return self._stop(outcome.said)
            # A busy server that answers others meanwhile is no failure.
            failures += not (outcome.is_busy and self.num_answered > last)
            last = self.num_answered
            if failures >= self.endpoint.attempts:
                return self._give_up(outcome, is_alone=self.num_answered > before)
            await self._wait(outcome, failures)
        return None

    def _give_up(self, trouble: Trouble, *, is_alone: bool) -> Unanswered | None:
        if is_alone:
            return Unanswered("failed", f"after {self.endpoint.attempts} attempts: {trouble.said}")
        return self._stop(f"after {self.endpoint.attempts} attempts, with nobody answered meanwhile: {trouble.said}")

    async def _attempt(self, request: ChatRequest) -> Completion | Trouble:
        errors = self.client._openai
        fields: dict[str, Any] = {"model": ""} | request.settings.body()
        extra = {name: fields.pop(name) for name in request.settings.extra}
        fields["messages"] = [{"role": turn.role, "content": _sendable(turn.content)} for turn in request.turns]
        create = self.server.chat.completions.with_raw_response.create
        keyless = {} if self.client._key else {"Authorization": errors.Omit()}
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                reply = await create(**fields, extra_body=extra, extra_headers=keyless)
            outcome = read_completion(self._keyless(reply.text), wants_logprobs=request.settings.top_logprobs > 0)
        except (TimeoutError, errors.APITimeoutError):
            outcome = Trouble("retry", f"no whole answer within {self.endpoint.timeout:g} seconds")
        except errors.APIStatusError as error:
            outcome = status_trouble(error.status_code, self._keyless(error.response.text), error.response.headers)
        except errors.APIConnectionError as error:
            cause = error.__cause__
            outcome = Trouble("retry", f"the connection failed ({type(cause).__name__}: {cause})")
        return outcome if isinstance(outcome, Completion) else replace(outcome, said=self._keyless(outcome.said))

    async def _wait(self, trouble: Trouble, failures: int) -> None:
        """Back off: this request alone, or everybody where the server named a time."""
        doubled = self.endpoint.first_wait * 2 ** min(max(failures, 1) - 1, 30)
        seconds = min(doubled, self.endpoint.longest_wait) * random.uniform(0.5, 1.0)
        if trouble.wait is not None:
            if trouble.wait > self.endpoint.longest_wait:
                self._stop(f"it asks for a pause of {trouble.wait:.0f} seconds: {trouble.said}")
                return
            self.pause_until = max(self.pause_until, time.monotonic() + trouble.wait)
            # A little apart, so that all do not come back in one instant.
            seconds = trouble.wait + random.uniform(0, min(1.0, self.endpoint.first_wait))
        if self.client.on_retry is not None:
            self.client.on_retry(trouble.said, seconds)
        await self._pause(seconds)

    async def _pause(self, seconds: float) -> bool:
        """Whether the work still goes on after so many seconds; returns early where it stops."""
        until = time.monotonic() + seconds
        while not self.stopped.is_set() and (left := until - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self.stopped.wait(), left)
            except TimeoutError:
                break
        return not self.stopped.is_set()

    def _stop(self, said: str) -> None:
        if self.stopped_by is None:
            self.stopped_by = EndpointError(
                f"{self.endpoint.base_url} must answer, got: {self._keyless(said)} "
                "What was answered is kept; the same command goes on from there."
            )
        self.stopped.set()

    def _keyless(self, text: str) -> str:
        """The text without the key, which a server may repeat."""
        return text.replace(self.client._key, "[key]") if self.client._key else text


def _sendable(text: str) -> str:
    """Lone surrogates cannot be sent as UTF-8; models and broken files contain them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _run(make: Callable[[], Any]) -> None:
    """Run a coroutine to its end, also where an event loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(make())
        return
    raised: list[BaseException] = []

    def inside() -> None:
        try:
            asyncio.run(make())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
