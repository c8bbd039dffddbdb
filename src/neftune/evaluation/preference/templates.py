"""What a judge is shown: a template with {instruction}, {output_1} and {output_2}.

A template file is one user message as plain text, or several messages in ChatML, as AlpacaEval's own files are:

    <|im_start|>system
    ...
    <|im_end|>
    <|im_start|>user
    ... {instruction} ... {output_1} ... {output_2} ...
    <|im_end|>

Only these three placeholders are filled, all in one pass, so braces and placeholders inside answers stay as they are.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from neftune.errors import DataError
from neftune.records import Role, Turn

PLACEHOLDERS = ("instruction", "output_1", "output_2")
_PLACEHOLDER = re.compile(r"\{(instruction|output_1|output_2)\}")
_CHATML = re.compile(r"<\|im_start\|>[ \t]*(system|user|assistant)[ \t]*\r?\n(.*?)<\|im_end\|>", re.DOTALL)

RANKING = """\
<|im_start|>system
You compare answers to instructions, and say which one people would prefer.
<|im_end|>
<|im_start|>user
Two models, model_1 and model_2, were given the same instruction. Rank them by which answer most people would prefer.

# Instruction

{instruction}

# Answer of model_1

{output_1}

# Answer of model_2

{output_2}

# What to reply

Reply with a list of both models, the better one first, in exactly this form and with nothing before or after it:

[{'model': 'NAME', 'rank': 1}, {'model': 'NAME', 'rank': 2}]
<|im_end|>
"""
"""For the judge that ranks."""

FIRST_TOKEN = """\
<|im_start|>system
You compare answers to instructions, and name the one that people would prefer. You reply with one letter.
<|im_end|>
<|im_start|>user
Two models, called m and M, were given the same instruction. Which of the two answers would most people prefer?

# Instruction

{instruction}

# Answer of m

{output_1}

# Answer of M

{output_2}

# What to reply

Reply with the name of the better model, which is m or M, and with nothing else: no quotes, no full stop, no reason.
<|im_end|>
"""
"""For the judge whose first token is read."""


@dataclass(frozen=True, slots=True)
class Template:
    """Messages with placeholders.

    Attributes:
        name: What the annotator's name says of it; "" for a judge's own.
        turns: The messages.
    """

    name: str
    turns: tuple[Turn, ...]

    def render(self, instruction: str, output_1: str, output_2: str) -> tuple[Turn, ...]:
        """The messages with the placeholders filled."""
        values = {"instruction": instruction, "output_1": output_1, "output_2": output_2}
        return tuple(
            Turn(turn.role, _PLACEHOLDER.sub(lambda found: values[found[1]], turn.content)) for turn in self.turns
        )


def parse_template(text: str, name: str = "") -> Template:
    """A template from its text.

    Raises:
        DataError: A placeholder is missing, or the ChatML is not whole.
    """
    missing = [f"{{{one}}}" for one in PLACEHOLDERS if f"{{{one}}}" not in text]
    if missing:
        raise DataError(
            f"a judge's template must hold {{instruction}}, {{output_1}} and {{output_2}}, got none for "
            f"{', '.join(missing)}{f' in {name}' if name else ''}. Add it."
        )
    if "<|im_start|>" not in text and "<|im_end|>" not in text:
        return Template(name, (Turn("user", text.strip()),))
    turns = tuple(Turn(cast(Role, found[1]), found[2].strip()) for found in _CHATML.finditer(text))
    rest = _CHATML.sub("", text).strip()
    # AlpacaEval ends some files with an opened assistant message: where the answer starts.
    rest = re.sub(r"^<\|im_start\|>[ \t]*assistant\s*$", "", rest)
    if rest or not turns or any("<|im_start|>" in turn.content for turn in turns):
        raise DataError(
            "a judge's template in ChatML must be <|im_start|>ROLE, a line feed, the text and <|im_end|>, with ROLE "
            f"system, user or assistant, got others{f' in {name}' if name else ''}: {rest[:60] or text[:60]!r}."
        )
    return Template(name, turns)


def read_template(path: Path) -> Template:
    """A template from a file.

    Raises:
        DataError: The file cannot be read, or is no template.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"a judge's template must be a readable text in UTF-8, got {path}: {error}.") from error
    return parse_template(text, path.name)
