"""Untrusted text made safe for each place it can land in: HTML, a plotly label, a script block."""

import base64
import gzip
import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)
_GLYPHS = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡"}


def escaped(text: str) -> str:
    """Text for an HTML element or a quoted attribute, with control and direction marks made visible."""
    return html.escape(visible(text))


def plotly_text(text: str) -> str:
    """Text for a plotly label or hover: plotly reads a few tags and entities in any string it draws.

    Quotes stay, since plotly knows no entity for them and never puts text into an attribute.
    """
    return html.escape(visible(text), quote=False)


def script_json(value: object) -> str:
    """JSON for a `<script type="application/json">` block, with no character that HTML could read as markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def visible(text: str) -> str:
    """Control characters as glyphs; as `�` what could reorder a line, cannot be seen, or is half of a character."""
    return _CONTROL.sub(_glyph, text)


def shortened(text: str, room: int) -> str:
    """`text`, or its beginning and an ellipsis where it is longer than `room` characters."""
    return text if len(text) <= room else f"{text[: room - 1].rstrip()}…"


def _glyph(found: re.Match[str]) -> str:
    character = found[0]
    if character in _GLYPHS:
        return _GLYPHS[character]
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\ufffd"


def numbers(summary: str, table: str, *, place: str = "") -> str:
    """`summary` and `table` are trusted HTML; links lead to `place`, if one is given, and unfold it."""
    named = f' id="{place}"' if place else ""
    return f'<details class="numbers"{named}><summary>{summary}</summary>{table}</details>'


def packed(text: str) -> str:
    """`text` in UTF-8, compressed by gzip, in base64: no character that HTML could read as markup. Equal for equal."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()


@dataclass(frozen=True, slots=True)
class Reasons:
    """Distinct reasons in order of first appearance; any of them may come from anyone."""

    texts: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Reasons":
        """Each reason once."""
        return cls(tuple(dict.fromkeys(texts)))

    def marks(self, texts: Iterable[str]) -> str:
        """The numbers of some of the reasons, as HTML."""
        numbers = sorted({self.texts.index(text) + 1 for text in texts})
        return f"<sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""

    def notes(self) -> str:
        """The numbered list, as HTML; empty where there is no reason."""
        items = "".join(f"<li>{escaped(text)}</li>" for text in self.texts)
        return f'<div class="refusals"><p>Why a value is refused:</p><ol>{items}</ol></div>' if items else ""
