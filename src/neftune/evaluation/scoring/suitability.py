"""Which models can share prefixes: rules that read the configuration, and a check of real requests."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from neftune.evaluation.losses import base_model
from neftune.evaluation.scoring.forward import Runner, score
from neftune.evaluation.scoring.rows import Limits
from neftune.evaluation.scoring.tree import Request, decode

_WINDOWS = ("sliding_window", "window_size", "attention_window", "attention_chunk_size", "local_attention")
_LENGTH_ROPE = ("dynamic", "longrope", "su")
_ADAPTERS = (
    "LORA",
    "ADALORA",
    "LOHA",
    "LOKR",
    "IA3",
    "VERA",
    "OFT",
    "BOFT",
    "HRA",
    "FOURIERFT",
    "LN_TUNING",
    "RANDLORA",
)
TOLERANCE = {torch.float32: 2e-4, torch.float64: 2e-4}
"""Largest difference allowed per token, in nats, between a shared and a plain forward pass."""
HALF_TOLERANCE = 0.25
"""The same in bfloat16 and float16."""


def obstacle(model: Any, *, backend: str, max_length: int) -> str | None:
    """Why the model's prefixes cannot be shared, in a few words; None where nothing speaks against it.

    Args:
        model: As lm-eval loaded it.
        backend: lm-eval's: causal or seq2seq.
        max_length: Longest input it will be given, in tokens.
    """
    if backend != "causal":
        return "it is an encoder-decoder"
    own = base_model(model)
    accepted = inspect.signature(own.forward).parameters
    missing = [name for name in ("position_ids", "past_key_values") if name not in accepted]
    if missing:
        return f"its forward takes no {' and no '.join(missing)}"
    config = own.config.get_text_config()
    return _adapter(model) or _layers(config) or _window(config, max_length) or _rope(config) or _attention(own, config)


def _adapter(model: Any) -> str | None:
    for config in getattr(model, "peft_config", {}).values():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind not in _ADAPTERS:
            return f"its adapter is of PEFT's type {kind}, which does more than replace matrices"
        if getattr(config, "alora_invocation_tokens", None):
            return "its adapter is an activated LoRA, whose effect depends on the tokens"
    return None


def _layers(config: Any) -> str | None:
    other = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if other:
        return f"it has layers of type {', '.join(other)}"
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False):
        return "its attention is not causal"
    return None


def _window(config: Any, max_length: int) -> str | None:
    if getattr(config, "use_sliding_window", True) is False:
        return None
    for name in _WINDOWS:
        window = getattr(config, name, None)
        if isinstance(window, int) and 0 < window < max_length:
            return f"its attention has a window ({name}={window}) shorter than max_length={max_length}"
    return None


def _rope(config: Any) -> str | None:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    kinds = {str(part.get("rope_type", part.get("type", "default"))) for part in parts}
    varying = sorted(kinds & set(_LENGTH_ROPE))
    return f"its rotary embedding ({varying[0]}) depends on the length of the input" if varying else None


def _attention(model: Any, config: Any) -> str | None:
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return "its attention is biased by distances in the row (ALiBi)"
    kind = model.config._attn_implementation
    if kind not in ("sdpa", "eager"):
        return f"its attention is {kind}, and only sdpa and eager take a mask of a tree"
    return None


def disagreement(runner: Runner, requests: Sequence[Request]) -> str | None:
    """What speaks against sharing in these requests themselves: their plain forward passes say something else.

    They are run in short rows, so that all of branching, going on and coming back is tried.

    Args:
        runner: The model.
        requests: A few, at least one.
    """
    shortest = max(4, max(request.input_length for request in requests) // 3)
    careful = replace(runner, limits=Limits(shortest, min(shortest, runner.limits.row_logits)))
    try:
        found = dict(pair for done in score(careful, requests) for pair in done)
    except Exception as error:
        return f"its forward pass failed on a tree ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    for index, request in enumerate(requests):
        expected = _plain(runner, request)
        off = abs(found[index].log_likelihood - expected) / request.num_scored
        allowed = TOLERANCE.get(runner.mask_dtype, HALF_TOLERANCE)
        if not off <= allowed:
            return f"on a tree it answered {off:.2g} nats per token apart from a plain pass, allowed {allowed:g}"
    return None


def _plain(runner: Runner, request: Request) -> float:
    tokens = torch.from_numpy(decode(request.tokens))
    found = runner.forward(tokens[:-1])[0, -request.num_scored :]
    targets = tokens[-request.num_scored :].to(found.device)
    return float(found.gather(1, targets[:, None]).sum())
