"""Document: parts as one HTML file that needs nothing else: no network, no fonts, no server."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from plotly.offline import get_plotlyjs

from lab.report.activation_strip import activation_css
from lab.report.contents import contents, sections
from lab.report.markup import escaped, script_json
from lab.report.packed import packed
from lab.report.palette import DARK
from lab.report.tokens import strip_css


def document(title: str, header: str, parts: Sequence[str], without_scripts: str) -> str:
    """`header`, `parts` and `without_scripts`, which stands where scripts do not run, are trusted HTML; `title` is not.

    A part begins with its `<h2>`, which the table of contents after the header leads to; an empty part is left out.
    Scripts run only if their hash is in the policy, so even text that escaped escaping would stay text. Plotly comes
    packed, since by itself it is larger than a page may be; the page's own script unpacks it.
    """
    ours = resources.files("lab.report")
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
