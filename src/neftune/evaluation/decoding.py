"""The greedy loop inside transformers' `generate`: rows that are done leave the batch, and a token copies no cache.

transformers prepares everything (cache, positions, mask, PEFT) and hands the loop over by its `custom_generate`. Its
own loop feeds every row until the last one is done, and copies the whole cache for every token; its continuous batching
drops the repetition penalty.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

# B rows, L tokens so far, V vocabulary

_DROP_SHARE = 1 / 8
"""Share of rows that must be done before they leave: leaving copies the cache of those that stay."""
_STEPS_PER_LOOK = 8
"""Steps between two looks at who is done, where each look would wait for the device."""


@dataclass(frozen=True, slots=True)
class Greedy:
    """How one batch is decoded.

    Attributes:
        limits: Longest answer per row in tokens, >= 1.
        ends: Ids that end an answer.
        penalty: Divides positive and multiplies negative logits of tokens that the row already holds; 1 is off.
        min_new_tokens: Ends are blocked until a row has so many new tokens.
        context: Positions that the model has; None without a limit.
        finish: Called once per row with its number and new ids, as soon as it is done; what stands behind the first
            end or the limit is to be cut off.
    """

    limits: Sequence[int]
    ends: Sequence[int]
    penalty: float
    min_new_tokens: int
    context: int | None
    finish: Callable[[int, list[int]], None]


def decode(model: Any, input_ids: Tensor, *, greedy: Greedy, generation_config: Any, **inputs: Any) -> Tensor:
    """The loop, as `custom_generate` calls it; answers go to `greedy.finish`, the ids of the last rows are returned."""
    del inputs["logits_processor"], inputs["stopping_criteria"], generation_config
    state = _State(input_ids, greedy)
    can_drop = _can_drop(inputs)
    _make_room(inputs.get("past_key_values"))
    first = True
    while True:
        now = model.prepare_inputs_for_generation(
            state.ids_BL, next_sequence_length=None if first else 1, is_first_iteration=first, **inputs
        )
        outputs = model(**_within(now, greedy.context), return_dict=True)
        inputs = model._update_model_kwargs_for_generation(outputs, inputs)
        state.append(outputs.logits[:, -1].float())
        first = False
        if state.look():
            if not state.open_B.any():
                return state.ids_BL
            if can_drop and (~state.open_B).float().mean() >= _DROP_SHARE:
                _keep(inputs, state.drop())


class _State:
    """The rows of a batch that are still there."""

    def __init__(self, input_ids: Tensor, greedy: Greedy) -> None:
        device = input_ids.device
        self.greedy = greedy
        self.ids_BL = input_ids
        self.num_prompt = input_ids.shape[1]
        self.rows_B = torch.arange(len(input_ids), device=device)
        self.limits_B = torch.tensor(greedy.limits, device=device)
        self.open_B = torch.ones_like(self.rows_B, dtype=torch.bool)
        self.ends = torch.tensor(list(greedy.ends), device=device)
        self.every = _steps_per_look(device)

    @property
    def num_new(self) -> int:
        return self.ids_BL.shape[1] - self.num_prompt

    def append(self, logits_BV: Tensor) -> None:
        """Every row's best token, after the penalty and what is held back."""
        if self.greedy.penalty != 1:
            held_BL = logits_BV.gather(1, self.ids_BL)
            penalty = self.greedy.penalty
            logits_BV.scatter_(1, self.ids_BL, torch.where(held_BL < 0, held_BL * penalty, held_BL / penalty))
        if self.num_new < self.greedy.min_new_tokens:
            logits_BV[:, self.ends] = -torch.inf
        self.ids_BL = torch.cat([self.ids_BL, logits_BV.argmax(-1, keepdim=True)], dim=1)

    def look(self) -> bool:
        """Hand over the answers that are done by now; False where nobody is, or it is not time to look."""
        longest = max(self.greedy.limits)
        if self.num_new % self.every and self.num_new < longest:
            return False
        recent_BL = self.ids_BL[:, -min(self.every, self.num_new) :]
        done_B = self.open_B & (torch.isin(recent_BL, self.ends).any(1) | (self.num_new >= self.limits_B))
        if not done_B.any():
            return False
        self.open_B &= ~done_B
        new_BL = self.ids_BL[done_B, self.num_prompt :]
        for row, ids in zip(self.rows_B[done_B].tolist(), new_BL.tolist(), strict=True):
            self.greedy.finish(row, ids)
        return True

    def drop(self) -> Tensor:
        """Let the rows go that are done; returns the places of the others."""
        kept = self.open_B.nonzero()[:, 0]
        self.ids_BL, self.rows_B, self.limits_B = self.ids_BL[kept], self.rows_B[kept], self.limits_B[kept]
        self.open_B = self.open_B[kept]
        return kept


def _steps_per_look(device: torch.device) -> int:
    return 1 if device.type == "cpu" else _STEPS_PER_LOOK


def _within(inputs: dict[str, Any], context: int | None) -> dict[str, Any]:
    """Positions past the context held at its end: a row that is done may still share a batch."""
    positions = inputs.get("position_ids")
    if positions is not None and context is not None:
        inputs["position_ids"] = positions.clamp(max=context - 1)
    return inputs


def _can_drop(inputs: dict[str, Any]) -> bool:
    """Whether rows can be taken out of everything that goes from step to step; recurrent states, say, cannot."""
    cache = inputs.get("past_key_values")
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    return (
        type(cache) is DynamicCache
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
        and set(tensors) <= {"attention_mask", "position_ids"}
        and all(value.dim() == 2 for value in tensors.values())
    )


def _keep(inputs: dict[str, Any], kept: Tensor) -> None:
    inputs["past_key_values"].batch_select_indices(kept)
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            inputs[name] = value[kept]


def _make_room(cache: Any) -> None:
    if type(cache) is DynamicCache:
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        if cache.layer_class_to_replicate is DynamicLayer:
            cache.layer_class_to_replicate = RoomyLayer


class RoomyLayer(DynamicLayer):
    """A cache layer with room for tokens to come, where transformers' copies all it holds for every token."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Adds tokens and returns all keys and values, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self.room is None or end > self.room[0].shape[-2]:
            # A quarter more each time, so that what is copied grows with the answer, not with its square.
            num = end + max(64, end // 4)
            self.room = _roomy(self.keys, key_states, start, num), _roomy(self.values, value_states, start, num)
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[..., start:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some rows, in memory of their own."""
        super().batch_select_indices(indices)
        self.room = None


def _roomy(kept: Any, new: Tensor, start: int, num: int) -> Tensor:
    room = new.new_empty((*new.shape[:-2], num, new.shape[-1]))
    if start:
        room[..., :start, :] = kept
    return room
