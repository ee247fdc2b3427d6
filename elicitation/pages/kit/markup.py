"""Markup: untrusted text made safe for each place it can land in, and the templates that pages are made of.

What is `Markup` is trusted HTML; any other text is escaped wherever a template or a function of the kit puts it.
"""

import base64
import gzip
import html
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)
_GLYPHS = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
PAGES = Path(__file__).parents[1]
"""The folder of all pages and of the kit; a template is named by its place in it, such as `kit/document.html`."""


def escaped(text: object) -> Markup:
    """Text for an HTML element or a quoted attribute, with control and direction marks made visible."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(visible("" if text is None else str(text))))


def markup(pattern: str, *values: object) -> Markup:
    """`pattern` is trusted HTML with a `{}` for each value, as `str.format` has it; values are escaped."""
    return Markup(pattern.format(*map(escaped, values)))


def joined(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after the other, escaped; `between` is trusted HTML."""
    return Markup(between).join(map(escaped, parts))


def filled(template: str, /, **values: object) -> Markup:
    """A template with its values in their places."""
    return Markup(_templates().get_template(template).render(values))


@cache
def _templates() -> Environment:
    made = Environment(loader=FileSystemLoader(PAGES), undefined=StrictUndefined, autoescape=True, finalize=escaped)
    made.trim_blocks = made.lstrip_blocks = True
    made.filters["counted"] = counted
    return made


def plotly_text(text: str) -> str:
    """Text for a plotly label or hover: plotly reads a few tags and entities in any string it draws.

    Quotes stay, since plotly knows no entity for them and never puts text into an attribute.
    """
    return html.escape(visible(text), quote=False)


def script_json(value: object) -> Markup:
    """JSON for a `<script type="application/json">` block, with no character that HTML could read as markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def visible(text: str) -> str:
    """Control characters as glyphs; as `�` what could reorder a line, cannot be seen, or is half of a character."""
    return _CONTROL.sub(_glyph, text)


def shortened(text: str, room: int) -> str:
    """`text`, or its beginning and an ellipsis where it is longer than `room` characters."""
    return text if len(text) <= room else f"{text[: room - 1].rstrip()}…"


def counted(n: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def grouped(n: int | float, digits: int = 0) -> str:
    """A number with its thousands apart: 20000 -> `20 000`."""
    return f"{n:,.{digits}f}".replace(",", "\u202f")


def packed(text: str) -> str:
    """`text` in UTF-8, compressed by gzip, in base64: no character that HTML could read as markup. Equal for equal."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()


def _glyph(found: re.Match[str]) -> str:
    return _GLYPHS.get(found[0], chr(0x2400 + ord(found[0])) if ord(found[0]) < 0x20 else "\ufffd")
