"""Token strip: some texts, token by token, shaded by a feature that the reader chooses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from elicitation.pages.kit.markup import joined, markup, visible
from elicitation.pages.kit.tokens import (
    ActivationStrip,
    activation_legend,
    activation_strip,
    strip_css,
    token_word,
)
from elicitation.widgets.mime_bundle import mime_bundle
from lab.records.errors import EstimateError


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadText:
    """A text with the activations of some features at its tokens."""

    name: str
    tokens: tuple[str, ...]
    activations: Mapping[str, tuple[float, ...]]
    """Feature -> its activation at each token; NaN where it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStrip:
    """Texts with the same features in each; a notebook lets the reader choose, any other page shows all."""

    texts: tuple[ReadText, ...]

    def __post_init__(self) -> None:
        if not self.texts or not self.features:
            raise EstimateError("token strip: want at least one text and one feature")
        for text in self.texts:
            if tuple(text.activations) != self.features:
                raise EstimateError(
                    f"token strip: {text.name!r} has the features {list(text.activations)}, and the first text "
                    f"{list(self.features)}; want the same in every text"
                )
            if any(len(values) != len(text.tokens) for values in text.activations.values()):
                raise EstimateError(f"token strip: {text.name!r} wants one activation a token for every feature")

    @property
    def features(self) -> tuple[str, ...]:
        """In the order of the first text."""
        return tuple(self.texts[0].activations) if self.texts else ()

    def scale(self, feature: str) -> float:
        """The largest activation of `feature` in any text, which has full strength; 0 where it never fires."""
        known = (value for text in self.texts for value in text.activations[feature] if not math.isnan(value))
        return max(0.0, max(known, default=0.0))

    def _repr_html_(self) -> str:
        parts = (_feature(self, feature, opened=place == 0) for place, feature in enumerate(self.features))
        return f"<style>{strip_css()}</style>{activation_legend()}{''.join(parts)}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        words = f"Token strip: {len(self.texts)} texts, {len(self.features)} features"
        return mime_bundle("token_strip.js", _data(self), html=self._repr_html_(), words=words)


def _feature(strip: TokenStrip, feature: str, *, opened: bool) -> str:
    """One feature on all texts, folded but for the first."""
    scale = strip.scale(feature)
    shown = [
        (text.name, ActivationStrip(tokens=text.tokens, activations=text.activations[feature], scale=scale))
        for text in strip.texts
    ]
    rows = joined(markup("<div>{}</div>{}", name, activation_strip(read)) for name, read in shown)
    state = " open" if opened else ""
    return markup("<details{}><summary>{}</summary>{}</details>", state, feature, rows)


def _data(strip: TokenStrip) -> dict[str, object]:
    """The strip as plain JSON; what is not known is null. The script writes every string as text, never as markup."""
    return {
        "style": strip_css(),
        "features": [visible(feature) for feature in strip.features],
        "scales": [strip.scale(feature) for feature in strip.features],
        "texts": [
            {
                "name": visible(text.name),
                "tokens": [token_word(token) for token in text.tokens],
                "activations": [
                    [None if math.isnan(value) else value for value in values] for values in text.activations.values()
                ],
            }
            for text in strip.texts
        ],
    }
