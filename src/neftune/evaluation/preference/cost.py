"""What judging costs: an estimate before, what was spent on the way, a cap on it.

Prices are the user's, per million tokens, since a list kept here would be wrong within months. Tokens are estimated at
four characters each (English text; others take more), and answers at their longest; what was spent is counted from
the server's own numbers where it gives them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from neftune.errors import ConfigError
from neftune.evaluation.preference.endpoint import ChatRequest
from neftune.evaluation.preference.replies import Completion
from neftune.records import Turn

CHARACTERS_PER_TOKEN = 4
_MESSAGE_TOKENS = 4
_UNLIMITED_TOKENS = 1000
"""Assumed of an answer without a limit."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Calls and their tokens."""

    num_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.num_calls + other.num_calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def scaled(self, factor: float) -> "Usage":
        """As many calls with so many times the tokens."""
        return Usage(self.num_calls, round(self.prompt_tokens * factor), round(self.completion_tokens * factor))


@dataclass(frozen=True, slots=True)
class Budget:
    """Prices and the most that may be spent, in any one currency.

    Attributes:
        prompt_price, completion_price: Per million tokens; None where unknown.
        max_cost: The cap over all commands that judge the same comparison; None sets none.
    """

    prompt_price: float | None = None
    completion_price: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        given = (self.prompt_price, self.completion_price, self.max_cost)
        if any(value is not None and not 0 <= value < float("inf") for value in given):
            raise ConfigError(f"prices and their cap must be finite and >= 0, got {given}.")
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ConfigError("a cost needs both prices, got one. Give --price-prompt and --price-completion.")
        if self.max_cost is not None and self.prompt_price is None:
            raise ConfigError(
                "a cap on the cost needs prices, got none. Give --price-prompt and --price-completion, per million "
                "tokens (0 for a server of your own)."
            )

    def cost(self, usage: Usage) -> float | None:
        """What tokens cost; None where prices are unknown."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return (usage.prompt_tokens * self.prompt_price + usage.completion_tokens * self.completion_price) / 1e6

    def allows(self, usage: Usage) -> bool:
        """Whether so much may be spent."""
        cost = self.cost(usage)
        return self.max_cost is None or cost is None or cost <= self.max_cost


def estimated(request: ChatRequest) -> Usage:
    """What a request may use at most."""
    limit = request.settings.max_tokens
    return Usage(1, _prompt_tokens(request.turns), _UNLIMITED_TOKENS if limit is None else limit)


def measured(request: ChatRequest, completion: Completion) -> Usage:
    """What an answer used: as the server counted, else by its length."""
    prompt, answer = completion.prompt_tokens, completion.completion_tokens
    return Usage(
        1,
        _prompt_tokens(request.turns) if prompt is None else prompt,
        -(-len(completion.text) // CHARACTERS_PER_TOKEN) if answer is None else answer,
    )


def _prompt_tokens(turns: Sequence[Turn]) -> int:
    return sum(-(-len(turn.content) // CHARACTERS_PER_TOKEN) + _MESSAGE_TOKENS for turn in turns)
