"""Tables as data: what a cell says, apart from how a page or a terminal draws it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from neftune.report.overview import Arm


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading.

    Attributes:
        label: The heading.
        unit: Unit under the heading; "" where there is none.
        numeric: Whether its cells are numbers, set flush right.
        about: A sentence for whoever asks what it means.
    """

    label: str
    unit: str = ""
    numeric: bool = True
    about: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        arm: The arm it names, shown with its colour; None where it names none.
        note: A smaller second line.
        tone: "good", "bad" or "" for a plain cell; the text must say the same without it.
    """

    text: str
    arm: Arm | None = None
    note: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows under one heading; a heading of "" is not drawn."""

    heading: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a caption.

    Attributes:
        name: Identifier, unique on the page.
        caption: What it shows, with n.
        columns: Headings; the first column heads its rows.
        groups: Rows in groups.
        notes: Sentences under the table.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def is_empty(self) -> bool:
        """Whether there is no row to show."""
        return not any(group.rows for group in self.groups)


def cells(*texts: str | Cell) -> tuple[Cell, ...]:
    """A row from texts and cells."""
    return tuple(text if isinstance(text, Cell) else Cell(text) for text in texts)


def arm_cell(arm: Arm) -> Cell:
    """A cell that names an arm, and what part it plays."""
    return Cell(arm.name, arm=arm, note="control" if arm.role == "control" else "")


def one_group(rows: Sequence[tuple[Cell, ...]]) -> tuple[Group, ...]:
    """Rows without a heading."""
    return (Group("", tuple(rows)),)
