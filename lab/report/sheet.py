"""Sheet: a plain table as HTML; on a narrow screen each row is a card, so nothing runs past the edge."""

from collections.abc import Collection, Sequence

from lab.report.markup import escaped


def sheet(headings: Sequence[str], rows: Sequence[Sequence[str]], sentences: Collection[str] = ()) -> str:
    """A row's cells, the first being its name, are trusted HTML; headings are plain text.

    Columns whose heading is among `sentences` hold words and are set like text, the others like numbers.
    """
    kinds = [' class="words"' if heading in sentences else "" for heading in headings]
    head = "".join(
        f'<th scope="col"{kind}>{escaped(heading)}</th>' for heading, kind in zip(headings, kinds, strict=True)
    )
    body = "".join(_row(headings, kinds, cells) for cells in rows)
    few = " few" if len(headings) <= 4 else ""
    pair = " pair" if len(headings) == 2 else ""
    table = f'<table class="ladder sheet{few}{pair}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def with_span(value: str, span: str) -> str:
    """A written number and a quiet remark below it; no remark where it is empty."""
    return f'{value} <span class="span">{escaped(span)}</span>' if span else value


def _row(headings: Sequence[str], kinds: Sequence[str], cells: Sequence[str]) -> str:
    name, *rest = cells
    marked = "".join(
        f'<td{kind} data-heading="{escaped(heading)}"><div>{cell}</div></td>'
        for heading, kind, cell in zip(headings[1:], kinds[1:], rest, strict=True)
    )
    return f'<tr><th scope="row">{name}</th>{marked}</tr>'
