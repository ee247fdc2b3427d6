"""Tokens: a text as a row of tokens, each with what is to be said of it."""

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from markupsafe import Markup

from elicitation.pages.kit.markup import PAGES, escaped, joined, markup, shortened, visible
from elicitation.pages.kit.numerals import figures
from lab.records.errors import EstimateError

_SPACE, _EMPTY, _ROOM = "␣", "∅", 24
_UNSEEN = {"Zs", "Cf", "Mn", "Me"}
_FAINTEST = 0.15


def token_body(token: str) -> Markup:
    """A token in running text: a line feed is shown as a glyph and also breaks the line; spaces alone are ␣."""
    *ended, last = token.split("\n")
    shown = escaped(_seen(last)) if last or not ended else ""
    return joined(markup("{}{}<br>", line, "\n") for line in ended) + shown


def token_word(token: str) -> str:
    """A token alone, in one line of plain text: all its spaces are shown; a long one is cut."""
    return shortened(re.sub(r"\s", _SPACE, visible(_seen(token))), _ROOM)


def _seen(text: str) -> str:
    """`text`, or a stand-in where a reader would see nothing."""
    if not text:
        return _EMPTY
    if any(unicodedata.category(character) not in _UNSEEN for character in visible(text)):
        return text
    kinds = ((character, unicodedata.category(character)) for character in text)
    return "".join(_SPACE if kind == "Zs" else f"⟨U+{ord(character):04X}⟩" for character, kind in kinds)


class Token(NamedTuple):
    """A token of a strip."""

    text: str
    remark: str
    """Shown over it, after its text; a token without a remark is a word of a key."""
    kind: str = ""
    """How it is set: names of classes of `strip.css`."""
    strength: float = 0.0
    """Of its shade, a fraction of full strength; whatever is above 0 can be seen."""
    peak: bool = False


def strip(tokens: Iterable[Token]) -> Markup:
    """The tokens of one text in a row; a peak is a `<mark>`."""
    return markup('<p class="strip">{}</p>', joined(map(_span, tokens)))


def strip_key(lead: str, tokens: Iterable[Token]) -> Markup:
    """What the kinds of tokens are, each said by its text."""
    return markup('<p class="strip-key">{}: {}</p>', lead, joined(map(_span, tokens), " "))


@cache
def strip_css() -> str:
    """The style that strips need; a page with `--ink` and friends overrides the inks."""
    return (PAGES / "kit" / "strip.css").read_text(encoding="utf-8")


def _span(token: Token) -> Markup:
    tag = "mark" if token.peak else "span"
    shade = _FAINTEST + (1 - _FAINTEST) * min(1.0, token.strength)
    style = markup(' style="--a:{}"', f"{shade:.2f}") if token.strength > 0 else ""
    title = markup(' title="{}"', f"“{token.text}” – {token.remark}") if token.remark else ""
    body = token_body(token.text) if token.remark else token.text
    return markup('<{0} class="{1}"{2}{3}>{4}</{0}>', tag, f"tok {token.kind}".rstrip(), style, title, body)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationStrip:
    """A text and one feature's activations; a notebook shows it in colour, without scripts and without a network."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    """As many; NaN where it is not known."""
    scale: float
    """The activation of full strength, such as the feature's largest anywhere."""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.activations):
            raise EstimateError(
                f"activation strip: {len(self.tokens)} tokens, {len(self.activations)} activations; want as many"
            )
        if not self.scale >= 0 or math.isinf(self.scale):
            raise EstimateError(
                f"activation strip: full strength {self.scale}; want a finite number of at least 0, such as the "
                "feature's largest activation"
            )

    @property
    def peak(self) -> int | None:
        """Place of the first token of largest activation; None where no activation is above 0."""
        known = [-math.inf if math.isnan(value) else value for value in self.activations]
        highest = max(known, default=0.0)
        return known.index(highest) if highest > 0 else None

    def _repr_html_(self) -> str:
        return f"<style>{strip_css()}</style>{activation_legend()}{activation_strip(self)}"


def activation_strip(shown: ActivationStrip) -> Markup:
    """The strip as HTML; each token's activation is in its title, and the peak is a `<mark>`."""
    peak = shown.peak
    return strip(
        _active(text, value, shown.scale, peak=place == peak)
        for place, (text, value) in enumerate(zip(shown.tokens, shown.activations, strict=True))
    )


def activation_legend() -> Markup:
    """What shading and marks mean, as HTML."""
    shades = (("not active", 0.0), ("half", 0.5), ("its largest anywhere", 1.0))
    return strip_key(
        "Activation at each token",
        (
            *(Token(words, "", "act", strength) for words, strength in shades),
            Token("the peak of the text", "", "act peak", peak=True),
            Token("not stored", "", "act unread"),
        ),
    )


def _active(text: str, value: float, scale: float, *, peak: bool) -> Token:
    if math.isnan(value):
        return Token(text, "activation not stored", "act unread")
    said = f"activation {figures(value)}{', the peak of the text' if peak else ''}"
    return Token(text, said, "act peak" if peak else "act", value / scale if scale > 0 else 0.0, peak)
