"""Document: a page as one HTML file that needs no network, fonts or server; its special words lead to a glossary."""

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from elicitation.pages.kit.markup import PAGES, escaped, filled, joined, markup, packed, script_json
from elicitation.pages.kit.palette import DARK
from elicitation.pages.kit.tokens import strip_css
from lab.records.provenance import Provenance
from lab.records.tables import Schema

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
    words, places = _forms()

    def link(found: re.Match[str]) -> str:
        place = places[found[1].lower()]
        if place in seen:
            return found[0]
        seen.add(place)
        return f'<a class="word" href="#{place}">{found[0]}</a>'

    return words.sub(link, text)


@cache
def _forms() -> tuple[re.Pattern[str], dict[str, str]]:
    """Any name of an entry, in the singular or the plural, the longest first; each in small letters -> its place."""
    forms = {
        str(escaped(name)).lower(): entry.place
        for entry in entries()
        for name in re.split(r", | and ", re.sub(r"\s*\(.*\)", "", entry.word))
    }
    names = "|".join(sorted(map(re.escape, forms), key=len, reverse=True))
    return re.compile(rf"(?<![\w&#/-])({names})(?:s|es)?(?![\w/-]|\.\w)", re.IGNORECASE), forms


def _set(meaning: str) -> Markup:
    """Code and emphasis as HTML."""
    told = re.sub(r"`(.+?)`", r"<code>\1</code>", str(escaped(meaning)))
    return Markup(re.sub(r"\*(.+?)\*", r"<em>\1</em>", told))


_SECTION = re.compile(r"<section>\s*<h2>(.*?)</h2>", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFile:
    """One table on disk."""

    path: str
    """Relative to the report."""
    schema: Schema
    n_rows: int
    digest: str
    """SHA-256 of the file, in hex."""
    command: str = ""
    """What makes it, where that is not what makes the page."""

    @property
    def place(self) -> str:
        """Where on the page its schema is."""
        return f"table-{self.schema.name.replace(' ', '-')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where the numbers of a page come from; every string in it may come from anyone."""

    made_by: Provenance
    command: str
    """What to type to make the page again, from the same commit."""
    files: tuple[TableFile, ...]
    told: tuple[str, ...] = ()
    """What else must be known of where they come from, in a line each."""

    @property
    def linked(self) -> dict[str, TableFile]:
        """Schema -> its first file, which links lead to."""
        return {file.schema.name: file for file in reversed(self.files)}

    def sources(self, *names: str) -> Markup:
        """Where the numbers of a section are: the files of these schemas, each a link to what it holds."""
        found = [self.linked[name] for name in names if name in self.linked]
        links = joined((markup('<a href="#{}">{}</a>', file.place, file.path) for file in found), ", ")
        return markup('<p class="note">Numbers: {}</p>', links) if found else Markup("")


def document(template: str, title: str, origin: Origin, /, **values: object) -> str:
    """A page from a template that extends `kit/document.html`, with `values` in their places.

    Its sections begin with their `<h2>`, which the table of contents after the header leads to. Scripts run only if
    their hash is in the policy, so even text that escaped escaping would stay text. Plotly comes packed, since by
    itself it is larger than a page may be; the page's own script unpacks it.
    """
    plotly, plotly_hash = _plotly()
    style, script = ((PAGES / "kit" / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page = filled(
        template,
        title=title,
        origin=origin,
        config=json.dumps(json.loads(origin.made_by.config), indent=2, ensure_ascii=False).split("\n"),
        style=Markup(style + strip_css()),
        script=Markup(script),
        hashes=Markup(f"{plotly_hash} {_hash(script)}"),
        inks=script_json(dict(DARK)),
        plotly=plotly,
        contents=contents,
        sections=sections,
        glossary=glossary(),
        **values,
    )
    return str(page)


def contents(body: str) -> Markup:
    """Links to the sections of `body`, which is trusted HTML; empty where fewer than two have a heading."""
    headings = _SECTION.findall(body)
    items = (markup('<li><a href="#{}">{}</a></li>', _place(heading), Markup(heading)) for heading in headings)
    nav = '<nav class="contents" aria-label="On this page"><ol>{}</ol></nav>'
    return markup(nav, joined(items)) if len(headings) > 1 else Markup("")


def sections(body: str) -> Markup:
    """`body`, each of its sections to be linked to by the words of its heading, its special words to the glossary."""
    return linked(
        _SECTION.sub(lambda found: f'<section id="{_place(found[1])}">{found[0].removeprefix("<section>")}', body)
    )


def _place(heading: str) -> str:
    return "part-" + "-".join(re.findall(r"[a-z0-9]+", html.unescape(heading).lower()))


@cache
def _plotly() -> tuple[str, str]:
    """The script, packed, and its hash."""
    return packed(get_plotlyjs()), _hash(get_plotlyjs())


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
