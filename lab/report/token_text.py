"""Token text: one token of a model as trusted HTML or as plain words; whatever it holds, it shows and does nothing."""

import re
import unicodedata

from lab.report.markup import escaped, shortened, visible

_SPACE, _EMPTY, _ROOM = "␣", "∅", 24
_UNSEEN = {"Zs", "Cf", "Mn", "Me"}


def token_body(token: str) -> str:
    """A token in running text: a line feed is shown as a glyph and also breaks the line; spaces alone are ␣."""
    *ended, last = token.split("\n")
    shown = escaped(_seen(last)) if last or not ended else ""
    return "".join(f"{escaped(line)}{escaped(chr(10))}<br>" for line in ended) + shown


def token_word(token: str) -> str:
    """A token alone, in one line of plain text: all its spaces are shown; a long one is cut."""
    return shortened(re.sub(r"\s", _SPACE, visible(_seen(token))), _ROOM)


def _seen(text: str) -> str:
    """`text`, or a stand-in where a reader would see nothing."""
    if not text:
        return _EMPTY
    if all(unicodedata.category(character) in _UNSEEN for character in visible(text)):
        return "".join(_SPACE if unicodedata.category(character) == "Zs" else _coded(character) for character in text)
    return text


def _coded(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"
