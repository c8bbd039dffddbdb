"""Which example goes to which part: by the hash of its prompt, never by its place in the file."""

import itertools
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from neftune.config import DataConfig
from neftune.errors import DataError
from neftune.records import Example, Part, content_hash


class Cut(NamedTuple):
    """The parts, and how many examples were left out on the way."""

    parts: Mapping[Part, tuple[Example, ...]]
    counts: Mapping[str, int]


def cut_parts(examples: Iterable[Example], config: DataConfig) -> Cut:
    """Disjoint parts of exactly the sizes asked for.

    Prompts are ranked by a hash of the seed and the prompt: the first num_test are the test part, the next
    num_heldout the held-out part, the examples of those after them the training part. So the cut depends neither on the
    order of the examples nor on their answers, and a larger num_train only adds.

    A prompt here is the conversation's first user turn and the input behind it, regardless of case, spacing, forms of
    one character (NFKC), and of where the turn ends and the input begins: two answers to
    one question, or two conversations with one opening, never lie on both sides of a cut. In the test and held-out
    parts each prompt is there once.

    Returns:
        Parts, each in order of rank, and the counts "duplicates_dropped" (equal content), "same_prompt_dropped" and
        "unused" (more training examples than asked for).

    Raises:
        DataError: There are too few examples.
    """
    given = list(examples)
    unique = {example.id: example for example in reversed(given)}
    groups: dict[str, list[Example]] = {}
    for example in unique.values():
        groups.setdefault(prompt_key(example), []).append(example)
    ranked = [
        sorted(groups[key], key=lambda example: example.id)
        for key in sorted(groups, key=lambda key: content_hash([config.seed, key]))
    ]
    num_judged = config.num_test + config.num_heldout
    test, heldout = ranked[: config.num_test], ranked[config.num_test : num_judged]
    train = list(itertools.chain.from_iterable(ranked[num_judged:]))
    dropped = {
        "duplicates_dropped": len(given) - len(unique),
        "same_prompt_dropped": sum(len(group) - 1 for group in (*test, *heldout)),
    }
    _require_enough(len(given), len(train), config, dropped)
    parts: dict[Part, tuple[Example, ...]] = {
        "train": tuple(train[: config.num_train]),
        "heldout": tuple(group[0] for group in heldout),
        "test": tuple(group[0] for group in test),
    }
    return Cut(parts, {**dropped, "unused": len(train) - len(parts["train"])})


def prompt_key(example: Example) -> str:
    """What two examples have in common if a model trained on one has seen the other's question.

    Case, spacing, forms of one character (NFKC) and the border between turn and input do not count.
    """
    opening = next(turn.content for turn in example.turns if turn.role == "user")
    # Together, because data sets differ in what they call input; NFKC twice, as case folding undoes it.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", f"{opening} {example.input}").casefold())
    return content_hash(" ".join(text.split()))


def _require_enough(num_given: int, num_train: int, config: DataConfig, dropped: Mapping[str, int]) -> None:
    needed = config.num_train or 1
    if num_train < needed:
        train = f"num_train {needed}" if config.num_train else "at least 1 for training"
        raise DataError(
            f"data needs {needed + config.num_heldout + config.num_test} examples with different prompts "
            f"({train} + num_heldout {config.num_heldout} + num_test {config.num_test}), got {num_given}, of which "
            f"{dropped['duplicates_dropped']} are duplicates and {dropped['same_prompt_dropped']} share a prompt. "
            "Ask for smaller parts or give more data."
        )
