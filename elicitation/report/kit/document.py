"""Document: parts as one HTML file that needs nothing else: no network, no fonts, no server."""

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from plotly.offline import get_plotlyjs

from elicitation.report.kit.markup import escaped, packed, script_json
from elicitation.report.kit.palette import DARK
from elicitation.report.kit.tokens import activation_css, strip_css

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


def document(title: str, header: str, parts: Sequence[str], without_scripts: str) -> str:
    """`header`, `parts` and `without_scripts`, which stands where scripts do not run, are trusted HTML; `title` is not.

    A part begins with its `<h2>`, which the table of contents after the header leads to; an empty part is left out.
    Scripts run only if their hash is in the policy, so even text that escaped escaping would stay text. Plotly comes
    packed, since by itself it is larger than a page may be; the page's own script unpacks it.
    """
    ours = resources.files("elicitation.report.kit")
    style = ours.joinpath("page.css").read_text(encoding="utf-8") + strip_css() + activation_css()
    script = ours.joinpath("page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_plotly_hash()} {_hash(script)}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    shown = [part for part in parts if part]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">'
        f'<title>{escaped(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head>'
        '<body><a class="skip" href="#main">Skip to the results</a>'
        f'<header class="top"><h1>{escaped(title)}</h1>{header}</header>{contents(shown)}'
        f'<main id="main" tabindex="-1">{sections(shown)}</main>'
        f"<noscript><p>{without_scripts}</p></noscript>"
        f'<script type="application/json" id="dark-inks">{script_json(dict(DARK))}</script>'
        f'<script type="text/plain" id="plotly">{_packed_plotly()}</script><script>{script}</script></body></html>\n'
    )


@cache
def _packed_plotly() -> str:
    return packed(get_plotlyjs())


@cache
def _plotly_hash() -> str:
    return _hash(get_plotlyjs())


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def guide(words: Mapping[str, str]) -> str:
    """`words` is word -> what it means here, both trusted HTML; the words stand in the summary too, so that a reader
    sees what there is to look up.
    """
    named = ", ".join(words)
    entries = "".join(f"<div><dt>{word}</dt><dd>{meaning}</dd></div>" for word, meaning in words.items())
    summary = f'<summary>How to read this <span class="count">{named}</span></summary>'
    return f'<details class="how">{summary}<dl>{entries}</dl></details>'
