"""A tree of requests through a model, row by row."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neftune.evaluation.losses import base_model
from neftune.evaluation.scoring.path_cache import PathCache
from neftune.evaluation.scoring.rows import Cost, Layout, Limits, Row, cut_rows, lay_out
from neftune.evaluation.scoring.tree import Request, TokenTree, build_tree


@dataclass(frozen=True, slots=True)
class Runner:
    """How a model is run.

    Attributes:
        model: A causal language model of transformers, in evaluation mode, with or without PEFT adapters.
        limits: What bounds a forward pass.
        cost: What rows are cut by.
        softmax_dtype: Of the log-softmax; the logits' own where None, as lm-eval does.
        mask_dtype: Of the additive mask: that of the queries.
        autocast: A context around forward passes, made anew for each.
    """

    model: Any
    limits: Limits
    cost: Cost
    softmax_dtype: torch.dtype | None
    mask_dtype: torch.dtype
    autocast: Any = nullcontext

    def forward(self, ids: Tensor, **arguments: Any) -> Tensor:
        """Log-probabilities of a row's next tokens, [1, K, V]."""
        context: AbstractContextManager[Any] = self.autocast()
        with torch.no_grad(), context:
            logits = self.model(input_ids=ids.to(self.model.device)[None], **arguments).logits
        return torch.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's result.

    Attributes:
        log_likelihood: Of the continuation given the context, in nats.
        is_greedy: Whether every token of it is the most probable one.
    """

    log_likelihood: float
    is_greedy: bool


@dataclass(slots=True)
class Progress:
    """What scoring has cost so far.

    Attributes:
        positions: Tokens that went through the model.
        rows: Forward passes.
    """

    positions: int = 0
    rows: int = 0


def score(
    runner: Runner, requests: Sequence[Request], progress: Progress | None = None
) -> Iterator[list[tuple[int, Answer]]]:
    """After every row, the requests that it has finished: their indices and answers.

    Memory: keys and values of the longest request and one row, the activations of one row, and its logits.

    Args:
        runner: The model.
        requests: At least one.
        progress: Counts the work done.
    """
    tree = build_tree(requests)
    rows = cut_rows(tree, runner.limits, runner.cost)
    cache = PathCache(max(row.prefix + row.stop - row.start for row in rows))
    num_queries = len(tree.query_slots)
    results = _Results(np.zeros(num_queries), np.zeros(num_queries, dtype=bool), "float32")
    last = tree.last_slots()
    order = np.argsort(last, kind="stable")
    finished = 0
    for row in rows:
        layout = lay_out(tree, row)
        _run_row(runner, tree, row, layout, cache, results)
        if progress is not None:
            progress.positions += row.stop - row.start
            progress.rows += 1
        done = int(np.searchsorted(last[order], row.stop))
        yield [(int(index), _answer(tree, int(index), results)) for index in order[finished:done]]
        finished = done


@dataclass(slots=True)
class _Results:
    """Per query: log-probability of its token, and whether it is the most probable one."""

    log_probabilities: np.ndarray
    greedy: np.ndarray
    dtype: str


def _run_row(runner: Runner, tree: TokenTree, row: Row, layout: Layout, cache: PathCache, results: _Results) -> None:
    device = runner.model.device
    first, last = np.searchsorted(tree.query_slots, [row.start, row.stop])
    slots, which = np.unique(tree.query_slots[first:last], return_inverse=True)
    # One position is kept where none is asked for: not every model takes an empty selection.
    places = torch.from_numpy(slots - row.start if len(slots) else np.array([row.stop - row.start - 1]))
    arguments: dict[str, Any] = {
        "position_ids": torch.from_numpy(tree.depths[row.start : row.stop]).to(device)[None],
        "past_key_values": cache,
        "use_cache": True,
    }
    if layout.visible is not None:
        arguments["attention_mask"] = additive_mask(layout.visible, runner.mask_dtype).to(device)
    keeps = keeps_logits(runner.model)
    if keeps:
        arguments["logits_to_keep"] = places.to(device)
    found = runner.forward(torch.from_numpy(tree.tokens[row.start : row.stop]), **arguments)[0]
    if not keeps:
        found = found[places.to(found.device)]
    cache.settle(layout.kept, torch.from_numpy(layout.moved))
    if first == last:
        return
    targets = torch.from_numpy(tree.query_targets[first:last]).to(found.device)
    at = torch.from_numpy(which.reshape(-1)).to(found.device)
    results.log_probabilities[first:last] = found[at, targets].double().cpu().numpy()
    results.greedy[first:last] = (found.argmax(dim=-1)[at] == targets).cpu().numpy()
    results.dtype = str(found.dtype).removeprefix("torch.")


def _answer(tree: TokenTree, request: int, results: _Results) -> Answer:
    queries = tree.queries_of(request)
    # Summed in the type of the log-probabilities, as lm-eval sums them.
    values = torch.from_numpy(results.log_probabilities[queries]).to(getattr(torch, results.dtype))
    return Answer(float(values.sum()), bool(results.greedy[queries].all()))


def additive_mask(visible: np.ndarray, dtype: torch.dtype) -> Tensor:
    """0 where a token is seen and the type's least number where not, [1, 1, N, P + N]."""
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill_(torch.from_numpy(~visible), torch.finfo(dtype).min)[None, None]


def keeps_logits(model: Any) -> bool:
    """Whether the model can compute logits at chosen positions only."""
    return "logits_to_keep" in inspect.signature(base_model(model).forward).parameters
