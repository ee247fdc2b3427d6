"""Contents: the parts of a page as sections with places to go to, and the list that leads there, as HTML."""

import html
import re
from collections.abc import Sequence

_HEADING = re.compile(r"<h2>(.*?)</h2>", re.DOTALL)


def contents(parts: Sequence[str]) -> str:
    """Links to the headings of level 2 of `parts`, which are trusted HTML; empty where fewer than two have one."""
    headings = [heading for heading in map(_heading, parts) if heading]
    if len(headings) < 2:
        return ""
    items = "".join(f'<li><a href="#{_place(heading)}">{heading}</a></li>' for heading in headings)
    return f'<nav class="contents" aria-label="On this page"><ol>{items}</ol></nav>'


def sections(parts: Sequence[str]) -> str:
    """`parts`, each a section that can be linked to by the words of its heading."""
    return "".join(map(_section, parts))


def _section(part: str) -> str:
    heading = _heading(part)
    place = f' id="{_place(heading)}"' if heading else ""
    return f"<section{place}>{part}</section>"


def _heading(part: str) -> str:
    found = _HEADING.search(part)
    return found[1] if found else ""


def _place(heading: str) -> str:
    return "part-" + "-".join(re.findall(r"[a-z0-9]+", html.unescape(heading).lower()))
