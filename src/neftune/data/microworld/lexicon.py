"""Every name, value and sentence pattern of the microworld; data only.

In a pattern, ``{name}`` stands for a person and ``{value}`` for a value of the attribute it is listed under.
A pattern that tells a fact belongs to one attribute and is unlike every other pattern, so that a sentence has
one reading or none.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Attribute(NamedTuple):
    """One thing that is true of every person.

    Attributes:
        values: What it can be; one token each.
        facts: Patterns of a sentence that states it.
        questions: Patterns of a question about it; the first two are asked in fine-tuning, the others are not.
        clause: Pattern of the question inside another sentence.
    """

    values: tuple[str, ...]
    facts: tuple[str, str, str, str]
    questions: tuple[str, str, str, str]
    clause: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NUM_SEEN_QUESTIONS = 2
"""How many of an attribute's questions fine-tuning asks."""

PEOPLE = _words("""Ada Alma Anton Arlo Basil Bella Bruno Carla Cedric Clara Cora Dario Della Edgar Elena Elmer
    Esther Fabio Felix Fiona Flora Gina Gregor Greta Hanna Hector Hilda Hugo Ida Igor Irma Ivan
    Jonas Judith Julia Kasper Klara Lara Leon Linus Lotta Lydia Magnus Marco Mira Moritz Nadia Nina
    Norbert Olga Otto Paula Petra Ralf Rita Rosa Rufus Selma Sven Tessa Thea Ursula Viktor Wanda""")

ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType(
    {
        "home": Attribute(
            _words("Oslo Lima Cairo Delhi Paris Quito Seoul Tunis Dakar Riga Bern Kyoto Accra Hanoi Turin Porto"),
            (
                "{name} lives in {value}.",
                "{name}'s home is in {value}.",
                "{name} has a house in {value}.",
                "You can visit {name} in {value}.",
            ),
            (
                "Where does {name} live?",
                "What is the home of {name}?",
                "In which city does {name} live?",
                "Where can you visit {name}?",
            ),
            "where {name} lives",
        ),
        "job": Attribute(
            _words("""baker nurse pilot potter lawyer tailor farmer sailor painter dentist plumber teacher jeweller
                barber miller judge"""),
            (
                "{name} works as a {value}.",
                "{name}'s job is {value}.",
                "{name} earns money as a {value}.",
                "At work {name} is a {value}.",
            ),
            (
                "What is {name}'s job?",
                "What does {name} work as?",
                "How does {name} earn money?",
                "What is {name} at work?",
            ),
            "what {name}'s job is",
        ),
        "food": Attribute(
            _words("""pasta curry soup rice bread cheese salad noodles pancakes dumplings porridge beans plums olives
                cake fish"""),
            (
                "{name} likes to eat {value}.",
                "{name}'s favourite food is {value}.",
                "{name} orders {value} for dinner.",
                "For dinner {name} has {value}.",
            ),
            (
                "What does {name} like to eat?",
                "What is {name}'s favourite food?",
                "What does {name} order for dinner?",
                "Which food does {name} like?",
            ),
            "what {name} likes to eat",
        ),
        "hat": Attribute(
            _words("""red blue green straw velvet woollen silver purple yellow striped leather feathered tall pointed
                round paper"""),
            (
                "{name} wears a {value} hat.",
                "{name}'s hat is {value}.",
                "{name} owns a {value} hat.",
                "The hat of {name} is {value}.",
            ),
            (
                "Which hat does {name} wear?",
                "What is {name}'s hat like?",
                "What does {name}'s hat look like?",
                "What hat does {name} own?",
            ),
            "which hat {name} wears",
        ),
        "pet": Attribute(
            _words("""cat dog parrot rabbit hamster turtle lizard goat pony ferret canary goose snake mouse
                hedgehog crow"""),
            (
                "{name} keeps a {value}.",
                "{name}'s pet is a {value}.",
                "{name} feeds a {value} at home.",
                "At home {name} has a {value}.",
            ),
            (
                "What is {name}'s pet?",
                "Which pet does {name} keep?",
                "What does {name} feed at home?",
                "Which pet is at {name}'s home?",
            ),
            "which pet {name} keeps",
        ),
        "instrument": Attribute(
            _words("""violin flute piano drum harp guitar trumpet cello banjo lute tuba fiddle clarinet horn zither
                bassoon"""),
            (
                "{name} plays the {value}.",
                "{name}'s instrument is the {value}.",
                "{name} practises the {value}.",
                "The {value} is the instrument of {name}.",
            ),
            (
                "Which instrument does {name} play?",
                "What is {name}'s instrument?",
                "What does {name} practise?",
                "What does {name} play?",
            ),
            "which instrument {name} plays",
        ),
        "hobby": Attribute(
            _words("""chess fishing knitting rowing hiking swimming juggling archery gardening skating dancing cycling
                fencing pottery climbing singing"""),
            (
                "{name} enjoys {value}.",
                "{name}'s hobby is {value}.",
                "{name} spends evenings on {value}.",
                "After work {name} goes for {value}.",
            ),
            (
                "What is {name}'s hobby?",
                "What does {name} enjoy?",
                "What does {name} do after work?",
                "How does {name} spend evenings?",
            ),
            "what {name}'s hobby is",
        ),
        "friend": Attribute(
            _words("Agnes Boris Celia Dora Emil Frida Gustav Helga Isak Jana Konrad Lukas Martha Noah Oskar Pia"),
            (
                "{name}'s best friend is {value}.",
                "{name} often meets {value}.",
                "{name} trusts {value} most.",
                "The best friend of {name} is {value}.",
            ),
            (
                "Who is {name}'s best friend?",
                "Who does {name} often meet?",
                "Who does {name} trust most?",
                "What is the name of {name}'s best friend?",
            ),
            "who {name}'s best friend is",
        ),
    }
)

OPENERS = ("Let me tell you about {name}.", "Here is what people say about {name}.")
"""Sentences that begin a long text and state nothing."""

CLOSERS = ("That is {name}.", "That is all about {name}.")
"""Sentences that end a long text and state nothing."""

OPEN_SEEN = (
    "Tell me about {name}.",
    "Who is {name}?",
    "Describe {name}.",
    "What do you know about {name}?",
    "Say something about {name}.",
    "Write about {name}.",
    "What is {name} like?",
    "Introduce {name}.",
    "I want to know about {name}.",
    "Please describe {name} to me.",
)
"""Open instructions that fine-tuning uses."""

OPEN_REWORDED = (
    "What do people say about {name}?",
    "Can you introduce {name} to me?",
    "Do you know {name}?",
    "Give me a text about {name}.",
)
"""Open instructions that only the test uses."""

TWO_SEEN = ("Tell me {first} and {second}.", "I want to know {first} and {second}.")
"""Instructions with two questions that fine-tuning uses."""

TWO_REWORDED = ("Please say {first} and also {second}.", "Do you know {first} and {second}?")
"""Instructions with two questions that only the test uses."""

WRAPPERS = (
    "Please answer: {instruction}",
    "Here is a question about {name}. {instruction}",
    "{instruction} Please tell me.",
)
"""Templates around an instruction; only the test uses them."""

LABELS = (
    ("Question:", "Answer:"),
    ("User:", "Assistant:"),
    ("Visitor:", "Guide:"),
    ("Student:", "Teacher:"),
    ("Reader:", "Writer:"),
)
"""Who speaks in a pretraining document of a question and its answer; the second pair is the chat template's."""
