"""The noise in embeddings, document by document: what was given minus what the embedding gives by itself.

# B rows, T positions in a row, D width
"""

import contextlib
import math
import statistics
from collections import Counter, OrderedDict
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from neftune.errors import NoiseError
from neftune.noise.calls import Calls, as_rows
from neftune.noise.distributions import UNIFORM_STD
from neftune.noise.documents import Layout, read_layout
from neftune.noise.findings import Finding, Phase, length_groups
from neftune.noise.given import given_to, layout_of
from neftune.noise.parallel import on_several_ranks
from neftune.noise.sequence import refuse_context_parallel, refuse_parts
from neftune.noise.stacks import Stack


class Documents(NamedTuple):
    """Documents of a batch, and the whole length of each, int64 (B * T,): in generation more than the batch holds."""

    layout: Layout
    lengths: Tensor


def documents_of(calls: Calls, stack: Stack, input_ids: Tensor) -> Documents:
    """The documents that a stack is about to embed; also of a generation step, whose earlier tokens are in a cache.

    Raises:
        NoiseError: What the model was called with does not say where its documents are.
    """
    past = _past_length(calls.open[0].given.get("past_key_values"))
    if not past:
        ids = calls.text_ids(stack, input_ids)
        refuse_context_parallel()
        given = given_to(calls, stack, ids)
        layout = layout_of(given, stack, ids)
        if on_several_ranks() and given.position_ids is not None and given.position_ids.ndim == 2:
            refuse_parts(layout, given.position_ids)
        return Documents(layout, layout.lengths)
    rows, width = input_ids.shape
    layout = read_layout((rows, width), input_ids.device)
    mask = as_rows(calls.find_readable("attention_mask", stack, past + width))
    if mask is not None and tuple(mask.shape) == (rows, past + width):
        whole = (mask != 0).sum(dim=1)
    else:
        whole = torch.full((rows,), past + width, device=input_ids.device)
    return Documents(layout, torch.zeros_like(layout.lengths).index_copy_(0, layout.document[:, 0], whole))


def _past_length(cache: Any) -> int:
    if cache is None:
        return 0
    return int(cache.get_seq_length() if hasattr(cache, "get_seq_length") else len(cache))


def clean_embeddings(embedding: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What the embedding's class computes, (B, T, D): no hook, no forward patched onto the instance, no random draw.

    Raises:
        NoiseError: Its table is divided among ranks.
    """
    if any(hasattr(parameter, "placements") for parameter in embedding.parameters()):
        raise NoiseError(
            "an audit needs the whole table, got one that is divided among ranks (tensor parallelism). Audit the same "
            "pipeline on one rank."
        )
    device: Any = args[0].device if args else next(iter(kwargs.values())).device
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices), _without_hooks(embedding):  # pyright: ignore[reportUnknownMemberType]
        return type(embedding).forward(embedding, *args, **kwargs)


@contextlib.contextmanager
def _without_hooks(embedding: nn.Module) -> Generator[None]:
    """Modules inside an embedding (an adapter's base layer) without forward hooks and patched forwards."""
    inside = [vars(module) for module in embedding.modules() if module is not embedding]
    saved = [(state, state["_forward_hooks"], state.pop("forward", None)) for state in inside]
    try:
        for state in inside:
            state["_forward_hooks"] = OrderedDict[int, Any]()
        yield
    finally:
        for state, hooks, forward in saved:
            state["_forward_hooks"] = hooks
            if forward is not None:
                state["forward"] = forward


@dataclass(slots=True)
class Tally:
    """What was seen of one stack in one phase.

    Attributes:
        num_forwards, num_measured: Forward passes.
        width: D.
        lengths, ratios: Of every measured document: L, and realised over nominal alpha.
        sums: Squared noise and squared embeddings on real tokens, squared noise on padding, padding tokens, real
            tokens, real tokens with noise.
        unreadable: Why passes could not be measured.
    """

    num_forwards: int = 0
    num_measured: int = 0
    width: int = 0
    lengths: list[int] = field(default_factory=list[int])
    ratios: list[float] = field(default_factory=list[float])
    sums: list[float] = field(default_factory=lambda: [0.0] * 6)
    unreadable: Counter[str] = field(default_factory=Counter[str])

    def wants(self, every: int, limit: float) -> bool:
        """Count a pass; whether it is to be measured."""
        self.num_forwards += 1
        return (self.num_forwards - 1) % every == 0 and len(self.lengths) < limit

    @torch.no_grad()
    def add(self, clean: Tensor, given: Tensor, documents: Documents, *, unit: float) -> None:
        """Measure one pass; waits for the device once.

        Args:
            clean: Embeddings without noise (B, T, D).
            given: Embeddings that the model goes on with (B, T, D).
            documents: Of the batch.
            unit: m times nominal alpha, to which the realised alpha is compared.
        """
        layout, whole = documents
        noise, embedded = _squared_norms(given.to(torch.float32) - clean.to(torch.float32)), _squared_norms(clean)
        sums = torch.zeros(layout.lengths.shape, dtype=torch.float64, device=noise.device)
        sums.index_add_(0, layout.document.flatten(), (noise * layout.real).flatten())
        # A document of which only some tokens are here is judged by their mean square.
        alphas = (sums * whole / layout.lengths.clamp(min=1)).sqrt() / UNIFORM_STD
        real, padding = layout.real, ~layout.real
        totals = [noise[real].sum(), embedded[real].sum(), noise[padding].sum()]
        counts = [padding.sum(), real.sum(), (noise[real] > 0).sum()]
        read = torch.cat([torch.stack([one.double() for one in (*totals, *counts)]), whole.double(), alphas])
        values = cast(list[float], read.tolist())  # pyright: ignore[reportUnknownMemberType]
        self.sums = [before + now for before, now in zip(self.sums, values[:6], strict=True)]
        for length, alpha in zip(values[6 : 6 + len(whole)], values[6 + len(whole) :], strict=True):
            if length:
                self.lengths.append(int(length))
                self.ratios.append(alpha / unit)
        self.num_measured += 1
        self.width = clean.shape[-1]

    def finding(self, stack: str, phase: Phase) -> Finding:
        """The summary."""
        noise, embedded, on_padding, num_padding, num_tokens, num_noised = self.sums
        return Finding(
            stack=stack,
            phase=phase,
            num_forwards=self.num_forwards,
            num_measured=self.num_measured,
            num_documents=len(self.lengths),
            num_tokens=int(num_tokens),
            num_padding=int(num_padding),
            width=self.width,
            noised_share=num_noised / num_tokens if num_tokens else math.nan,
            mean=statistics.fmean(self.ratios) if self.ratios else math.nan,
            least=min(self.ratios, default=math.nan),
            most=max(self.ratios, default=math.nan),
            fifth_percentile=_quantile(self.ratios, 0.05),
            noise_rms=_root_mean(noise, num_tokens * self.width),
            embedding_rms=_root_mean(embedded, num_tokens * self.width),
            padding_rms=_root_mean(on_padding, num_padding * self.width),
            groups=length_groups(self.lengths, self.ratios),
            unreadable=dict(self.unreadable),
        )


def _squared_norms(values: Tensor) -> Tensor:
    """Squared L2 norm of every token in float64, (B, T)."""
    norms: Tensor = torch.linalg.vector_norm(values.to(torch.float32), dim=-1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return norms.double().square()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def _quantile(values: list[float], share: float) -> float:
    """The value at a share of the sorted values, linear between two; NaN without any."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def _root_mean(total: float, count: float) -> float:
    return math.sqrt(total / count) if count else 0.0
