"""What is asked of whom: a server, a model's settings, a conversation."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from neftune.errors import ConfigError
from neftune.records import Turn

OPENAI_URL = "https://api.openai.com/v1"
_OPENAI_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and how it is used.

    Attributes:
        base_url: Up to and with "/v1".
        key_variable: Name of the environment variable that holds the key. "" means OPENAI_API_KEY for OpenAI's own
            server, and no key for any other, so that OpenAI's key is never sent elsewhere unasked.
        concurrency: Requests at a time.
        attempts: How often one request is sent before it is given up.
        timeout: Seconds for one whole answer.
        first_wait: Seconds before the second attempt; doubled with each further one, with jitter.
        longest_wait: Seconds between two attempts at most; a server that asks for a longer pause stops the work.
    """

    base_url: str = OPENAI_URL
    key_variable: str = ""
    concurrency: int = 8
    attempts: int = 8
    timeout: float = 120.0
    first_wait: float = 1.0
    longest_wait: float = 120.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"base_url must be like http://127.0.0.1:8000/v1, got {self.base_url!r}.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                f"base_url must hold no user, password or query (it is stored), got one for host {parts.hostname}. "
                "Put the key into an environment variable and name that."
            )
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}.")
        for name in ("timeout", "first_wait", "longest_wait"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0 seconds, got {getattr(self, name)}.")

    def key(self) -> str | None:
        """The key, read from the environment now; None where none is needed.

        Raises:
            ConfigError: The variable is not set, or what it holds cannot be a key.
        """
        name = self.key_variable or (_OPENAI_KEY if urlsplit(self.base_url).hostname == "api.openai.com" else "")
        if not name:
            return None
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            state = "one with characters that no key has" if key else "none"
            raise ConfigError(f"the environment variable {name} must hold the key for {self.base_url}, got {state}.")
        return key


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What is asked of a model, and how it samples. Everything here decides what is answered.

    Attributes:
        model: The model's name, as the server knows it.
        temperature: 0 is greedy; None leaves it to the server (some models refuse any).
        max_tokens: Longest answer; None leaves it to the server.
        seed: For servers that sample by seed; None sends none.
        top_logprobs: How many likeliest first tokens to return with their log-probabilities; 0 asks for none.
        stop: Texts that end an answer.
        extra: Further fields of the request's body, as the server documents them.
    """

    model: str
    temperature: float | None = 0.0
    max_tokens: int | None = None
    seed: int | None = None
    top_logprobs: int = 0
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def body(self) -> dict[str, Any]:
        """The fields of a request's body except its messages."""
        fields: dict[str, Any] = {
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stop": list(self.stop) or None,
        }
        if self.top_logprobs:
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return {name: value for name, value in fields.items() if value is not None} | dict(self.extra)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One conversation to be answered.

    Attributes:
        id: The caller's name for it.
        turns: The conversation so far.
        settings: What is asked of the model.
    """

    id: str
    turns: tuple[Turn, ...]
    settings: ChatSettings


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A request that was given up alone.

    Attributes:
        reason: "prompt_too_long" and "refused" (by a filter) would come out the same again; "failed" may not.
        said: What the server said.
    """

    reason: Literal["prompt_too_long", "refused", "failed"]
    said: str
