"""Pairs of answers -> a judge's preferences, each kept before it counts."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neftune.errors import EndpointError
from neftune.evaluation.preference.client import ChatClient
from neftune.evaluation.preference.cost import Budget, Usage, estimated, measured
from neftune.evaluation.preference.endpoint import ChatRequest, ChatSettings, Unanswered
from neftune.evaluation.preference.pairing import Pair
from neftune.evaluation.preference.parsing import parse_first_token, parse_ranking
from neftune.evaluation.preference.replies import Completion
from neftune.evaluation.preference.templates import FIRST_TOKEN, RANKING, Template, parse_template
from neftune.evaluation.preference.verdicts import VerdictStore, answer_key
from neftune.registry import Registry

OnProgress = Callable[[int, int, Usage], None]


@dataclass(frozen=True, slots=True)
class PairwiseJudge:
    """A way to ask a model which of two answers is better.

    Attributes:
        summary: One line for lists.
        template: Its own template.
        max_tokens: Longest reply.
        top_logprobs: How many likeliest first tokens it reads; 0 reads none.
        parse: From a reply to a preference between the answers as shown, None where it cannot be read.
    """

    summary: str
    template: str
    max_tokens: int
    top_logprobs: int
    parse: Callable[[Completion], float | None]


pairwise_judges: Registry[PairwiseJudge] = Registry("pairwise judge")

pairwise_judges.register("ranking")(
    PairwiseJudge(
        "Both answers ranked in words, as AlpacaEval 1 asks; any server.",
        RANKING,
        100,
        0,
        lambda reply: parse_ranking(reply.text),
    )
)
pairwise_judges.register("logprobs")(
    PairwiseJudge(
        "The first token's log-probabilities, as AlpacaEval 2 asks: a share, not a side; a server that gives them.",
        FIRST_TOKEN,
        1,
        5,
        lambda reply: parse_first_token(reply.first_token),
    )
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one pair.

    Attributes:
        preference: 1 baseline, 2 model, between, 1.5 a draw; None where there is none.
        reply: The judge's reply; None where nobody was asked, or nobody answered.
        reason: "" for a preference that was read, "same_outputs" for a draw that nobody was asked about; else why there
            is none: "malformed" (a reply that cannot be read), "prompt_too_long", "refused", "failed" (to be asked
            again), "not_asked" (the work stopped before).
        said: What the server said where it gave no answer.
    """

    preference: float | None
    reply: Completion | None
    reason: str
    said: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the pair is dealt with; the same command asks again for the others."""
        return self.reason not in ("failed", "not_asked")

    def fields(self) -> dict[str, Any]:
        """What an annotation says of it."""
        told: dict[str, Any] = {
            "preference": self.preference,
            "raw_completion": None if self.reply is None else self.reply.text,
        }
        if self.reply is not None and self.reply.first_token is not None:
            told["first_token_logprobs"] = dict(self.reply.first_token)
        return told | ({"reason": self.reason} if self.reason else {}) | ({"said": self.said} if self.said else {})


@dataclass(frozen=True)
class Judging:
    """All that is to be asked about one comparison.

    Attributes:
        pairs: What is compared.
        judge: The way of asking.
        template: What is shown.
        settings: The judge's model and how it samples.
        server: The server's name in the store's keys.
        max_prompt_characters: Longer prompts are not sent; None sends all.
        requests: By key, each once, in the pairs' order; those that are not to be sent left out.
        keys: The key of each pair; None where nobody is asked.
    """

    pairs: tuple[Pair, ...]
    judge: PairwiseJudge
    template: Template
    settings: ChatSettings
    server: str
    max_prompt_characters: int | None = None
    requests: Mapping[str, ChatRequest] = field(init=False)
    keys: tuple[str | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        keys = tuple(None if pair.is_same else self._request(pair) for pair in self.pairs)
        requests = {one.id: one for one in keys if one is not None and not self._is_too_long(one)}
        object.__setattr__(self, "requests", requests)
        object.__setattr__(self, "keys", tuple(None if one is None else one.id for one in keys))

    def _request(self, pair: Pair) -> ChatRequest:
        turns = self.template.render(pair.baseline.prompt, *pair.shown())
        return ChatRequest(answer_key(self.server, self.settings, turns), turns, self.settings)

    def _is_too_long(self, request: ChatRequest) -> bool:
        longest = self.max_prompt_characters
        return longest is not None and sum(len(turn.content) for turn in request.turns) > longest


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of it.

    Attributes:
        verdicts: One per pair.
        spent: Calls and tokens of this comparison's answers, those of earlier commands too.
        num_before: Answers that were there before.
        stopped_by: Why the work ended early; "" where it did not.
    """

    verdicts: tuple[Verdict, ...]
    spent: Usage
    num_before: int
    stopped_by: str

    def counts(self) -> dict[str, int]:
        """Verdicts by reason, those that were read as "read"."""
        return dict(Counter(one.reason or "read" for one in self.verdicts))


def make_judging(
    pairs: Sequence[Pair],
    settings: ChatSettings,
    *,
    judge: str = "ranking",
    template: Template | None = None,
    server: str,
    max_prompt_characters: int | None = None,
) -> Judging:
    """What is to be asked, by a registered judge's name; ``settings`` rule over the judge's own.

    Raises:
        UnknownNameError: No judge has this name.
    """
    kind = pairwise_judges[judge]
    return Judging(
        tuple(pairs), kind, template or parse_template(kind.template), settings, server, max_prompt_characters
    )


def left_to_ask(judging: Judging, store: VerdictStore) -> tuple[Usage, Usage]:
    """What was spent on answers that are there, and an estimate of what the others may use at most."""
    found = store.get_many(judging.requests)
    spent = sum((measured(judging.requests[key], one) for key, one in found.items()), Usage())
    left = sum((estimated(one) for key, one in judging.requests.items() if key not in found), Usage())
    return spent, left


def judge_pairs(
    judging: Judging,
    client: ChatClient,
    store: VerdictStore,
    *,
    budget: Budget | None = None,
    on_progress: OnProgress | None = None,
) -> Judged:
    """Ask for what is not there yet, and read all of it.

    Args:
        judging: What is to be asked.
        client: The server.
        store: Where answers are kept before they count.
        budget: Stops asking before the cap is passed.
        on_progress: Called with (answers there, answers wanted, spent so far).

    Raises:
        StoreError: An answer cannot be kept.
    """
    work = _Work(judging, store, budget or Budget(), on_progress)
    num_before = len(work.answers)
    stopped_by = ""
    try:
        client.complete_many(work.requests_left(), work.take_in)
    except EndpointError as error:
        stopped_by = str(error)
    return Judged(work.verdicts(), work.spent, num_before, stopped_by or work.stopped_by)


class _Work:
    """Answers as they come in, and what is spent on them."""

    def __init__(self, judging: Judging, store: VerdictStore, budget: Budget, on_progress: OnProgress | None) -> None:
        self.judging, self.store, self.budget, self.on_progress = judging, store, budget, on_progress
        self.answers = store.get_many(judging.requests)
        self.unanswered: dict[str, Unanswered] = {}
        self.spent = sum((measured(judging.requests[key], one) for key, one in self.answers.items()), Usage())
        self.on_their_way: dict[str, Usage] = {}
        self.stopped_by = ""

    def requests_left(self) -> Iterator[ChatRequest]:
        """Requests without an answer, also none from another process meanwhile, while the budget allows them."""
        for key, request in self.judging.requests.items():
            if key in self.answers:
                continue
            theirs = self.store.get(key)
            if theirs is not None:
                self._count(request, theirs)
                continue
            coming = sum(self.on_their_way.values(), estimated(request))
            if not self.budget.allows(self.spent + coming.scaled(self._underestimate())):
                self.stopped_by = (
                    f"the next call could pass the cap of {self.budget.max_cost:g}; {self.budget.cost(self.spent):.4g} "
                    "is spent. What was answered is kept; the same command with a higher --max-cost goes on."
                )
                return
            self.on_their_way[key] = estimated(request)
            yield request

    def _underestimate(self) -> float:
        """How many times more prompt tokens the server counted than were estimated; at least 1."""
        expected = sum(estimated(self.judging.requests[key]).prompt_tokens for key in self.answers)
        return max(1.0, self.spent.prompt_tokens / expected) if expected else 1.0

    def take_in(self, request: ChatRequest, result: Completion | Unanswered) -> None:
        """Keep an answer, then count it."""
        self.on_their_way.pop(request.id, None)
        if isinstance(result, Unanswered):
            self.unanswered[request.id] = result
            return
        self.store.put(request.id, result, server=self.judging.server, model=request.settings.model)
        self._count(request, result)

    def _count(self, request: ChatRequest, answer: Completion) -> None:
        self.answers[request.id] = answer
        self.spent += measured(request, answer)
        if self.on_progress is not None:
            self.on_progress(len(self.answers), len(self.judging.requests), self.spent)

    def verdicts(self) -> tuple[Verdict, ...]:
        """One per pair."""
        return tuple(self._verdict(pair, key) for pair, key in zip(self.judging.pairs, self.judging.keys, strict=True))

    def _verdict(self, pair: Pair, key: str | None) -> Verdict:
        if key is None:
            return Verdict(1.5, None, "same_outputs")
        if key not in self.judging.requests:
            longest = self.judging.max_prompt_characters
            return Verdict(None, None, "prompt_too_long", f"not sent: longer than {longest} characters")
        if (reply := self.answers.get(key)) is not None:
            preference = pair.preference(self.judging.judge.parse(reply))
            return Verdict(preference, reply, "malformed" if preference is None else "")
        if (nothing := self.unanswered.get(key)) is not None:
            return Verdict(None, None, nothing.reason, nothing.said)
        return Verdict(None, None, "not_asked")
