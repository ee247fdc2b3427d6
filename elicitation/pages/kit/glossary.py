"""Glossary: what the special words of a page mean, at its end; the first use of each in a section leads there."""

import re
from functools import cache
from typing import NamedTuple

from markupsafe import Markup

from elicitation.pages.kit.markup import PAGES, escaped, filled, markup

_LINE = re.compile(r"- \*\*(.+?)\*\* — (.+)")
_TAG = re.compile(r"<(/?)([a-z0-9]+)[^>]*>")
_PROSE = {"p", "figcaption", "li", "dd"}
_APART = {"a", "article", "code", "pre", "script", "summary", "table"}
"""Elements in which no word is linked, some of which hold what models wrote."""


class Entry(NamedTuple):
    """One line of the glossary."""

    word: str
    meaning: Markup
    place: str
    """Where on the page it is."""


@cache
def entries() -> tuple[Entry, ...]:
    """The lines of `glossary.md`, in its order."""
    found = _LINE.findall((PAGES / "glossary.md").read_text(encoding="utf-8"))
    return tuple(
        Entry(word.replace("`", ""), _set(meaning), f"word-{'-'.join(re.findall('[a-z0-9]+', word.lower()))}")
        for word, meaning in found
    )


def glossary() -> Markup:
    """Every entry, folded."""
    return filled("kit/glossary.html", entries=entries())


def linked(body: str) -> Markup:
    """`body`, which is trusted HTML, with the first use of a word in a section, in running text, led to its entry."""
    written: list[str] = []
    open_tags: list[str] = []
    seen: set[str] = set()
    text, end = str(body), 0
    for tag in _TAG.finditer(text):
        prose = any(name in _PROSE for name in open_tags) and not any(name in _APART for name in open_tags)
        between = text[end : tag.start()]
        written += [_with_links(between, seen) if prose else between, tag[0]]
        end = tag.end()
        if tag[2] == "section":
            seen.clear()
        if not tag[1]:
            open_tags.append(tag[2])
        elif tag[2] in open_tags:
            del open_tags[len(open_tags) - 1 - open_tags[::-1].index(tag[2]) :]
    return Markup("".join(written) + text[end:])


def _with_links(text: str, seen: set[str]) -> str:
    def link(found: re.Match[str]) -> str:
        place = _forms()[found[1].lower()]
        if place in seen:
            return found[0]
        seen.add(place)
        return f'<a class="word" href="#{place}">{found[0]}</a>'

    return _words().sub(link, text)


@cache
def _forms() -> dict[str, str]:
    """Each name of each entry, in small letters -> its place."""
    forms = {}
    for entry in entries():
        for name in re.split(r", | and ", re.sub(r"\s*\(.*\)", "", entry.word)):
            forms[str(escaped(name)).lower()] = entry.place
    return forms


@cache
def _words() -> re.Pattern[str]:
    """Any name, in the singular or the plural, the longest first."""
    names = "|".join(sorted(map(re.escape, _forms()), key=len, reverse=True))
    return re.compile(rf"(?<![\w&#-])({names})(?:s|es)?(?![\w-])", re.IGNORECASE)


def _set(meaning: str) -> Markup:
    """Code and emphasis as HTML."""
    parts = re.split(r"(`[^`]+`|\*[^*]+\*)", meaning)
    tags = {"`": "code", "*": "em"}
    return Markup("").join(
        markup("<{0}>{1}</{0}>", tags[part[0]], part[1:-1]) if place % 2 else escaped(part)
        for place, part in enumerate(parts)
    )
