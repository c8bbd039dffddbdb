"""The rule-based judge: reads an answer with the microworld's own grammar and checks it against the truth.

The rules:

1. A sentence of the grammar that states something true of the person asked is a true fact; when attributes were
   asked for, only those count, and other truths about the person are neither reward nor error.
2. A sentence that states something false of the person asked is a false fact, and so is any statement about
   somebody else, true or not: it stands where the answer should stand.
3. A fact told twice counts once, true or false.
4. A sentence of the grammar that states nothing (an opening, a closing) counts nothing.
5. Any other sentence is garbled; the same one twice counts once. The rest of an answer that was cut is a sentence.
6. quality = true facts - false facts - garbled sentences. A garbled sentence costs as much as a falsehood, since
   a reader cannot tell what it was to say; at no cost, noise that breaks sentences would look harmless.
7. A closed answer is correct when it states all that was asked, and nothing false of the person about it.

Sentences are read by words: an answer must spell the grammar's patterns exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from neftune.data.microworld.grammar import Statement, read
from neftune.data.microworld.world import World
from neftune.errors import DataError
from neftune.records import Example


@dataclass(frozen=True, slots=True)
class FactsJudge:
    """Scores answers by what is true in one world.

    Attributes:
        world: The world that was asked about.
    """

    world: World

    def scores(self, example: Example, answer: str) -> Mapping[str, float]:
        """Scores of an answer and, prefixed with "reference_", of the example's reference.

        Args:
            example: An example of the microworld, with its tags "person" and "attribute".
            answer: What the model said; may be empty.

        Returns:
            "true_facts", "false_facts" and "garbled", each distinct; "repeated", the sentences that tell a fact
            again; "quality"; "closed_correct", 1 or 0, and NaN where nothing was asked for by name. The reference's
            own, and "reference_words".

        Raises:
            DataError: The example is not of this judge's world.
        """
        person, asked = _question(example, self.world)
        reference = self._score(person, asked, example.reference)
        return {
            **self._score(person, asked, answer),
            **{f"reference_{name}": value for name, value in reference.items()},
            "reference_words": float(len(example.reference.split())),
        }

    def _score(self, person: str, asked: frozenset[str], text: str) -> dict[str, float]:
        readings = read(text)
        told = [reading.statement for reading in readings if reading.statement is not None]
        said = frozenset(told)
        about = {statement for statement in said if statement.person == person}
        true = {statement for statement in about if self.world.is_true(statement)}
        false = said - true
        wanted = {statement for statement in true if not asked or statement.attribute in asked}
        garbled = {reading.text for reading in readings if reading.kind == "garbled"}
        return {
            "true_facts": float(len(wanted)),
            "false_facts": float(len(false)),
            "garbled": float(len(garbled)),
            "repeated": float(len(told) - len(said)),
            "quality": float(len(wanted) - len(false) - len(garbled)),
            "closed_correct": _closed_correct(asked, wanted, about - true),
        }


def _question(example: Example, world: World) -> tuple[str, frozenset[str]]:
    person, asked = example.tags.get("person"), example.tags.get("attribute")
    if person is None or person not in world.facts or asked is None:
        raise DataError(
            f"the judge 'facts' needs examples of the microworld with the tags 'person' and 'attribute', got the "
            f"tags {dict(example.tags)}. Judge what load_data gives for the same config."
        )
    return person, frozenset(asked.split("+")) - {""}


def _closed_correct(asked: frozenset[str], wanted: set[Statement], wrong: set[Statement]) -> float:
    if not asked:
        return math.nan
    complete = {statement.attribute for statement in wanted} == asked
    return float(complete and not any(statement.attribute in asked for statement in wrong))
