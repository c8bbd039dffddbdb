"""How much of the training data an arm has by heart: reproduction word for word, and the train/held-out gap."""

import numpy as np

from neftune.analysis.pairing import Pairing, answer_matrix, score_matrix, shared_examples
from neftune.analysis.statistics import (
    Component,
    FloatArray,
    Interval,
    drop_undefined,
    interval_from,
    mean_components,
    paired_interval,
)
from neftune.records import Answer

GAP = "generalisation_gap"
VERBATIM = "verbatim"


def is_verbatim(answer: Answer) -> float:
    """1 where the reference is reproduced word for word, else 0: spacing is not looked at, case is."""
    return float(answer.text.split() == answer.reference.split())


def verbatim_shares(pairing: Pairing, part: str) -> tuple[FloatArray, FloatArray]:
    """(S, E) of 0 and 1 for the baseline and the arm; NaN where a run has no answer."""
    examples = shared_examples((*pairing.baseline, *pairing.runs), part)
    return answer_matrix(pairing.baseline, examples, is_verbatim), answer_matrix(pairing.runs, examples, is_verbatim)


def gap_interval(pairing: Pairing, *, confidence: float) -> tuple[float, float, Interval] | None:
    """How much wider an arm's gap, held-out minus training loss, is than the baseline's; None without both losses.

    Training and held-out examples are two samples under the same seeds: the variance between seeds is that of the
    gap, the variance over examples is the sum of the two samples'.

    Returns:
        The baseline's gap, the arm's gap and the interval of their difference, in nats per token.
    """
    losses = {part: _losses(pairing, part) for part in ("heldout", "train")}
    (heldout_base, heldout), (train_base, train) = losses["heldout"], losses["train"]
    if not heldout.size or not train.size:
        return None
    kept = [drop_undefined(heldout - heldout_base), drop_undefined(train - train_base)]
    (heldout_difference, heldout_dropped), (train_difference, train_dropped) = kept
    by_seed = heldout_difference.mean(axis=1) - train_difference.mean(axis=1)
    parts, method = _components(by_seed, heldout_difference, train_difference)
    counts = (len(by_seed), heldout_difference.shape[1] + train_difference.shape[1], heldout_dropped + train_dropped)
    interval = interval_from(float(by_seed.mean()), parts, confidence=confidence, counts=counts, method=method)
    baseline = float(np.nanmean(heldout_base) - np.nanmean(train_base))
    return baseline, baseline + interval.estimate, interval


def _losses(pairing: Pairing, part: str) -> tuple[FloatArray, FloatArray]:
    if part not in pairing.parts() or "loss" not in pairing.metrics(part):
        return np.empty((0, 0)), np.empty((0, 0))
    examples = shared_examples((*pairing.baseline, *pairing.runs), part)
    return score_matrix(pairing.baseline, examples, "loss"), score_matrix(pairing.runs, examples, "loss")


def _components(by_seed: FloatArray, *samples: FloatArray) -> tuple[tuple[Component, ...], str]:
    """Between seeds, then what each sample of examples adds."""
    found = [mean_components(sample) for sample in samples]
    over_examples = tuple(parts[-1] for parts, _ in found if parts)
    if len(by_seed) == 1:
        return over_examples, found[0][1]
    seeds = paired_interval(by_seed[:, None])
    return (Component(seeds.standard_error**2, len(by_seed) - 1), *over_examples), found[0][1]
