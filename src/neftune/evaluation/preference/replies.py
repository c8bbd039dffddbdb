"""What a server's reply means: an answer, or trouble of a kind."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, cast


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    Attributes:
        text: The answer; "" where the model said nothing.
        first_token: Log-probability in nats by token, for the likeliest first tokens; None where not asked for, or
            where the answer is empty.
        prompt_tokens, completion_tokens: As the server counted them; None where it did not say.
        finish_reason: As the server said it ("stop", "length", ...).
        model: The model's name as the server said it; "" where it did not.
        attempts: How often it was sent until it was answered.
    """

    text: str
    first_token: Mapping[str, float] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    model: str = ""
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no answer.

    Attributes:
        kind: What follows: ask again, give up this request for its reason, or stop the work.
        said: What went wrong, in one line.
        wait: Seconds the server asks to be left alone; None where it named none.
        is_busy: Whether the server only wants fewer requests.
    """

    kind: Literal["retry", "stop", "prompt_too_long", "refused"]
    said: str
    wait: float | None = None
    is_busy: bool = False


_RETRIED = frozenset({408, 409, 425, 429})
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context|context (?:length|size|window)|"
    r"(?:prompt|input|request)\b.{0,40}\btoo (?:long|large)|max_model_len|string_above_max_length",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content_filter|content_policy|content management policy|invalid_prompt|moderation", re.IGNORECASE
)
_NO_QUOTA = re.compile(r"insufficient_quota|billing_hard_limit|exceeded your current quota", re.IGNORECASE)


def read_completion(body: str, *, wants_logprobs: bool) -> Completion | Trouble:
    """The answer that a reply of status 200 holds.

    Args:
        body: The reply's body.
        wants_logprobs: Whether log-probabilities were asked for; a server that gives none with an answer stops the
            work, since it will not for the others either.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return Trouble("retry", f"a body that is not JSON: {one_line(body) or 'an empty one'}")
    if isinstance(reply, dict) and reply.get("error"):
        return Trouble("retry", f"status 200 with an error: {one_line(_message(reply) or body)}")
    choice = _first(reply.get("choices")) if isinstance(reply, dict) else None
    message = choice.get("message") if choice else None
    if not choice or not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
        return Trouble("retry", f"JSON that is not a chat completion: {one_line(body)}")
    text = message.get("content") or ""
    first_token = _first_token(choice.get("logprobs")) if wants_logprobs else None
    if wants_logprobs and first_token is None and text:
        return Trouble(
            "stop",
            "an answer without the log-probabilities that were asked for (logprobs, top_logprobs): this server or "
            "model does not give them. Use another server, or a judge that needs none (ranking).",
        )
    usage = reply["usage"] if isinstance(reply.get("usage"), dict) else {}
    return Completion(
        text,
        first_token,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        finish_reason=_text(choice.get("finish_reason")) or None,
        model=_text(reply.get("model")),
    )


def status_trouble(status: int, body: str, headers: Mapping[str, str]) -> Trouble:
    """What an error status means."""
    said = f"status {status}: {one_line(_said(body)) or 'no reason given'}"
    if status == 429 and _NO_QUOTA.search(body):
        return Trouble("stop", said)
    if status in _RETRIED or status >= 500:
        return Trouble("retry", said, wait=_retry_after(headers), is_busy=status in (429, 503))
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(body)):
        return Trouble("prompt_too_long", said)
    if status in (400, 403) and _FILTERED.search(body):
        return Trouble("refused", said)
    hints = {
        401: " Check the key, and the name of the variable that holds it.",
        403: " Check what the key may do.",
        404: " Check the model's name and the base URL, which mostly ends in /v1.",
    }
    return Trouble("stop", said + hints.get(status, ""))


def one_line(text: str, *, length: int = 300) -> str:
    """Foreign text made fit for a message: one line, no control characters, cut."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * length])
    words = " ".join(plain.split())
    return words if len(words) <= length else f"{words[: length - 3]}..."


def _said(body: str) -> str:
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return body
    return _message(reply) or body


def _message(reply: Any) -> str:
    """The text of an error as servers give it: under "error", "message" or "detail", mostly {"error": {"message"}}."""
    while isinstance(reply, dict):
        fields = cast("dict[str, Any]", reply)
        reply = next((fields[name] for name in ("error", "message", "detail") if fields.get(name)), "")
    return reply if isinstance(reply, str) else json.dumps(reply)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the time that Retry-After names, as a number or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _first_token(logprobs: Any) -> dict[str, float] | None:
    """Log-probability by token at the first position: the likeliest ones, and the one that was taken."""
    first = _first(logprobs.get("content")) if isinstance(logprobs, dict) else None
    if first is None:
        return None
    found: dict[str, float] = {}
    likeliest = first.get("top_logprobs")
    for one in [*(likeliest if isinstance(likeliest, list) else []), first]:
        token, logprob = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        if isinstance(token, str) and isinstance(logprob, int | float) and logprob <= 0:
            found.setdefault(token, float(logprob))
    return found or None


def _first(values: Any) -> dict[str, Any] | None:
    return values[0] if isinstance(values, list) and values and isinstance(values[0], dict) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
