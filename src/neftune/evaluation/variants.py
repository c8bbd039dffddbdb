"""Variants: other ways to ask one trained model, or to cut its answers, that tell "better" from "longer".

They cost no training. To add one, register a function that returns a `Variant`; its first line says what it does, its
"Source:" where it comes from. A recipe or the command line names it, with a number after "=" where it takes one:
"long", "held_back", "held_back=100".
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from neftune.errors import ConfigError, DataError
from neftune.records import Example
from neftune.registry import Registry

Cut = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class Variant:
    """What one variant changes; what is left at its default stays as it is.

    Attributes:
        name: As it was asked for, "held_back=100".
        meaning: One line for tables.
        source: Paper or data it follows.
        sentence: Asked for at the end of the last question, as a sentence of its own.
        min_new_tokens: Every end token is blocked until so many tokens are there.
        cut: (answer, the baseline's answer to the same prompt) -> answer; None leaves answers whole.
    """

    name: str
    meaning: str
    source: str
    sentence: str = ""
    min_new_tokens: int = 0
    cut: Cut | None = None

    @property
    def needs_generation(self) -> bool:
        """Whether the model must be asked again; otherwise its own answers are cut."""
        return bool(self.sentence or self.min_new_tokens)

    def ask(self, example: Example) -> Example:
        """The example as this variant asks it. It keeps its id, so that answers pair with those of the plain prompt."""
        if not self.sentence:
            return example
        *before, question, answer = example.turns
        asked = replace(question, content=with_sentence(question.content, self.sentence))
        return replace(example, turns=(*before, asked, answer))

    def answers(self, answers: Sequence[str], baseline: Sequence[str] | None = None) -> list[str]:
        """The answers as this variant leaves them.

        Args:
            answers: Of the model, one per prompt.
            baseline: Of the baseline to the same prompts, needed where answers are cut.

        Raises:
            DataError: The baseline's answers are missing, or are not as many.
        """
        if self.cut is None:
            return list(answers)
        if baseline is None or len(baseline) != len(answers):
            raise DataError(
                f"The variant {self.name!r} needs one baseline answer for each of {len(answers)} answers, got "
                f"{'none' if baseline is None else len(baseline)}. Give it the baseline's answers to the same prompts."
            )
        return [self.cut(answer, other) for answer, other in zip(answers, baseline, strict=True)]


Make = Callable[..., Variant]

variants: Registry[Make] = Registry("variant")
"""Variants by name, each a function that makes one."""


def make_variant(text: str) -> Variant:
    """The variant that a recipe or a command line names: "long", "held_back", "held_back=100".

    Raises:
        UnknownNameError: No variant has this name.
        ConfigError: Its number is missing, wrong or not wanted.
    """
    name, given, number = text.partition("=")
    make = variants[name]
    takes = list(inspect.signature(make).parameters)
    if not given:
        return make()
    if not takes:
        raise ConfigError(f"The variant {name!r} takes no number, got {text!r}. Use {name!r}.")
    if not number.isdecimal():
        raise ConfigError(f"The variant {name!r} takes a whole number of {takes[0]}, got {text!r}. Use {name}=100.")
    return make(int(number))


def with_sentence(question: str, sentence: str) -> str:
    """The question with one more sentence: after a space where it ends in one itself, else on a line of its own."""
    text = question.rstrip()
    if not text:
        return sentence
    return f"{text}{' ' if text[-1] in '.!?' else chr(10)}{sentence}"


def cut_to_length(answer: str, baseline: str) -> str:
    """The answer cut at a word boundary to at most the baseline answer's characters.

    Where there is no boundary so far (a script without spaces, a long first word) it is cut at the character.
    """
    text, longest = answer.rstrip(), len(baseline)
    if len(text) <= longest:
        return text
    # One character more, so that a word that ends at the limit stays.
    boundaries = [place for place, letter in enumerate(text[: longest + 1]) if letter.isspace()]
    return text[: boundaries[-1] if boundaries else longest].rstrip()


_FORCED = "arXiv 2310.05914, table 5; where the sentence goes is not in the paper: here at the end of the instruction"


@variants.register("long")
def long() -> Variant:
    """Asked to answer long.

    Source: arXiv 2310.05914, table 5, "Generate a long response".
    """
    return Variant("long", "asked for a long response", _FORCED, sentence="Generate a long response.")


@variants.register("comprehensive")
def comprehensive() -> Variant:
    """Asked to answer comprehensively.

    Source: arXiv 2310.05914, table 5, "Generate a comprehensive response".
    """
    return Variant(
        "comprehensive", "asked for a comprehensive response", _FORCED, sentence="Generate a comprehensive response."
    )


@variants.register("long_comprehensive")
def long_comprehensive() -> Variant:
    """Asked to answer long and comprehensively.

    Source: arXiv 2310.05914, table 5, "Generate a long and comprehensive response".
    """
    return Variant(
        "long_comprehensive",
        "asked for a long and comprehensive response",
        _FORCED,
        sentence="Generate a long and comprehensive response.",
    )


@variants.register("held_back")
def held_back(tokens: int = 250) -> Variant:
    """End-of-sequence held back until 250 new tokens (or as many as are asked for).

    Args:
        tokens: New tokens before the answer may end, >= 1.

    Source: arXiv 2310.05914, table 5, "EOS blocked until 250 new tokens".

    Raises:
        ConfigError: Fewer than one token.
    """
    if tokens < 1:
        raise ConfigError(f"held_back needs at least 1 token, got {tokens}. Leave it out to hold nothing back.")
    return Variant(
        f"held_back={tokens}",
        f"end-of-sequence held back until {tokens} new tokens",
        "arXiv 2310.05914, table 5 (250 tokens)",
        min_new_tokens=tokens,
    )


@variants.register("truncated")
def truncated() -> Variant:
    """Answers cut to the length of the baseline's answer to the same prompt.

    Source: this project; the paper has no such control.
    """
    return Variant(
        "truncated",
        "cut at a word boundary to at most the baseline answer's characters",
        "this project: the converse of the paper's length forcing (arXiv 2310.05914, table 5)",
        cut=cut_to_length,
    )
