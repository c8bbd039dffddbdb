"""lm-eval's Hugging Face backend around a model in memory, quiet, with what it truncates counted."""

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neftune.errors import ModelError
from neftune.training.models import quiet_transformers
from neftune.training.randomness import preserved_random_state

SEED = 1234
"""lm-eval's default seed of few-shot samplers, NumPy and torch; Python's is 0."""


def hf_backend(model: Any, tokenizer: Any, *, batch_size: int) -> Any:
    """lm-eval's HFLM around a model that is loaded already; the tokenizer given is left as it is."""
    from lm_eval.models.huggingface import HFLM

    return _quiet_subclass(HFLM)(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)


def sharing_backend(model: Any, tokenizer: Any, *, batch_size: int, score_cache: Path | None = None) -> Any:
    """The same with every shared prefix run once; log-likelihoods are kept in ``score_cache`` as they are found."""
    from neftune.evaluation.scoring.lm_eval_model import SharingLM

    made: Any = _quiet_subclass(SharingLM)
    # Copied, because HFLM sets a padding token and a padding side on what it is given.
    tokenizer = copy.deepcopy(tokenizer)
    return made(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, score_cache=score_cache)


def _quiet_subclass(base: Any) -> Any:
    """HFLM, or a class made from it, without progress bars, that counts what it truncates."""

    class Backend(base):
        """With ``num_truncated`` requests counted."""

        num_truncated = 0

        def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False, **others: Any) -> list[Any]:
            self.num_truncated += _count_truncated(requests, self.max_length)
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, **others)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            self.num_truncated += _count_cut_prompts(requests, self)
            return super().generate_until(requests, disable_tqdm=True)

    return Backend


def _count_cut_prompts(requests: Sequence[Any], backend: Any) -> int:
    """Prompts that leave too little of the context for the answer, so that their beginning is cut.

    Raises:
        ModelError: The longest answer asked for fills the context alone.
    """
    num_cut = 0
    for request in requests:
        prompt, settings = request.args[:2]
        longest = int(settings.get("max_gen_toks", backend.max_gen_toks))
        room = backend.max_length - longest
        if room <= 0:
            raise ModelError(
                f"{request.task_name} asks for answers of up to {longest} tokens, got a model with a context of "
                f"{backend.max_length}. Take a longer context, or a definition with a smaller max_gen_toks."
            )
        num_cut += len(backend.tok_encode(prompt)) > room
    return num_cut


def _count_truncated(requests: Sequence[Any], max_length: int) -> int:
    """Requests whose context loses tokens on the left.

    Raises:
        ModelError: A continuation alone does not fit.
    """
    longest = max((len(request[-1]) for request in requests), default=0)
    if longest > max_length:
        raise ModelError(
            f"a model must have room for the longest answer ({longest} tokens), got a context of {max_length} tokens. "
            "Take a model with a longer context."
        )
    return sum(len(request[-2]) + len(request[-1]) > max_length + 1 for request in requests)


@contextlib.contextmanager
def evaluation_state(model: Any) -> Iterator[None]:
    """Evaluation mode (no dropout, no noise), lm-eval's seeds, no output of its libraries; all as before afterwards."""
    import random

    import numpy as np
    import torch

    modes = [(module, module.training) for module in model.modules()]
    dtype = torch.get_default_dtype()
    with preserved_random_state(), quiet(), quiet_transformers(), _seeded_language_detection():
        model.eval()
        random.seed(0)
        np.random.seed(SEED)  # noqa: NPY002 - what lm-eval's own evaluation starts from
        torch.manual_seed(SEED)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            for module, was_training in modes:
                module.training = was_training


@contextlib.contextmanager
def _seeded_language_detection() -> Iterator[None]:
    """Makes langdetect, which IFEval asks for an answer's language, say the same of the same text every time."""
    try:
        from langdetect import DetectorFactory  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        yield
        return
    factory: Any = DetectorFactory
    before = factory.seed
    factory.seed = 0
    try:
        yield
    finally:
        factory.seed = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps lm-eval's log lines and progress bars, and those of datasets, off the terminal."""
    import datasets
    import lm_eval.api.task as lm_eval_task

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval_task.tqdm
    bars_were_on = datasets.are_progress_bars_disabled() is False
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    setattr(lm_eval_task, "tqdm", lambda rows, total=None: rows)  # noqa: B010 - it takes no switch
    try:
        yield
    finally:
        setattr(lm_eval_task, "tqdm", bar)  # noqa: B010
        logger.setLevel(level)
        if bars_were_on:
            datasets.enable_progress_bars()


class RequestCounter:
    """Stands where lm-eval's cache stands and is told of every finished request: the way to see progress inside it.

    Args:
        advance: Called with the number of requests finished so far.
    """

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance
        self.num_done = 0

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """One request is finished."""
        self.num_done += 1
        self.advance(self.num_done)
