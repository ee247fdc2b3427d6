"""Table: rows of written numbers, for a page and for a terminal."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup
from rich import box
from rich import table as terminal
from rich.text import Text

from elicitation.pages.kit.markup import escaped, filled, joined, markup, visible

ROOM_FOR_ALL = 130
"""Columns of a terminal that hold a whole table; a narrower one is shown without the columns that need the room."""


class Line(NamedTuple):
    """One row of a table."""

    cells: Sequence[str]
    """The first is the row's name."""
    kind: str = ""
    """How it is set; empty for an ordinary row."""


def sheet(headings: Sequence[str], rows: Iterable[Sequence[str] | Line], sentences: Collection[str] = ()) -> Markup:
    """Cells that are no `Markup` are plain text, as headings are; a table without rows is empty.

    Columns whose heading is among `sentences` hold words and are set like text, the others like numbers. On a narrow
    screen each row is a card.
    """
    lines = [row if isinstance(row, Line) else Line(row) for row in rows]
    return filled("kit/sheet.html", headings=headings, lines=lines, sentences=sentences) if lines else Markup("")


def titled(name: str, what: str) -> Markup:
    """A row's name and, below it, what it is; nothing where that is empty."""
    return markup('{}<span class="what">{}</span>', name, what) if what else escaped(name)


def numbers(summary: str, table: str, *, place: str = "") -> Markup:
    """`table` folded under `summary`; links lead to `place`, if one is given, and unfold it."""
    named = markup(' id="{}"', place) if place else ""
    return markup('<details class="numbers"{}><summary>{}</summary>{}</details>', named, summary, table)


@dataclass(frozen=True, slots=True)
class Reasons:
    """Distinct reasons in order of first appearance; any of them may come from anyone."""

    texts: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> "Reasons":
        """Each reason once; None is none."""
        return cls(tuple(dict.fromkeys(text for text in texts if text is not None)))

    def marks(self, texts: Iterable[str]) -> Markup:
        """The numbers of some of the reasons."""
        numbers = sorted({self.texts.index(text) + 1 for text in texts})
        return markup("<sup>{}</sup>", ", ".join(map(str, numbers))) if numbers else Markup("")

    def cell(self, row: Mapping[str, Any], given: str) -> str:
        """`given`, or, where the row has a `refusal`, what stands in its place."""
        return given if row["refusal"] is None else markup("refused{}", self.marks([row["refusal"]]))

    def notes(self, what: str = "a value") -> Markup:
        """The numbered list; empty where there is no reason."""
        items = joined(markup("<li>{}</li>", text) for text in self.texts)
        why = '<div class="refusals"><p>Why {} is refused:</p><ol>{}</ol></div>'
        return markup(why, what, items) if items else Markup("")


def terminal_table(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Line],
    width: int,
    *,
    wide_only: Collection[str],
    below: str,
) -> terminal.Table:
    """Rows for a terminal of `width` columns, and a sentence `below`, if any; a line's kind is a style of rich's.

    Columns in `wide_only` are left out where there is less than `ROOM_FOR_ALL`. No text is read as markup.
    """
    table = terminal.Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, caption_justify="left")
    shown = [heading for heading in headings if width >= ROOM_FOR_ALL or heading not in wide_only]
    for heading in shown:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for line in rows:
        cells = dict(zip(headings, line.cells, strict=True))
        table.add_row(*(Text(visible(cells[heading])) for heading in shown), style=line.kind)
    table.caption = Text(visible(below)) if below else None
    return table
