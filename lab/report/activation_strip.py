"""Activation strip: a text as a row of tokens, each shaded by how active one feature is at it."""

import math
from dataclasses import dataclass

from lab.errors import EstimateError
from lab.report.markup import escaped
from lab.report.numerals import figures
from lab.report.token_text import token_body
from lab.report.tokens import strip_css

_INK = "46,134,214"
"""A blue halfway between black and white: dark text reads on it at half strength, and so does light text."""
_FULL, _FAINTEST = 0.62, 0.15


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
        return f"<style>{strip_css()}{activation_css()}</style>{activation_legend()}{activation_strip(self)}"


def activation_strip(strip: ActivationStrip) -> str:
    """The strip as HTML; each token's activation is in its title, and the peak is a `<mark>`."""
    peak = strip.peak
    spans = (
        _token(token, value, strip.scale, peak=place == peak)
        for place, (token, value) in enumerate(zip(strip.tokens, strip.activations, strict=True))
    )
    return f'<p class="strip">{"".join(spans)}</p>'


def activation_legend() -> str:
    """What shading and marks mean, as HTML."""
    keys = (
        _key("not active", 0.0),
        _key("half", 0.5),
        _key("its largest anywhere", 1.0),
        '<mark class="tok act peak">the peak of the text</mark>',
        '<span class="tok act unread">not stored</span>',
    )
    return f'<p class="strip-key">Activation at each token: {" ".join(keys)}</p>'


def activation_css() -> str:
    """The style of shading, beside that of `strip_css`."""
    return (
        f".tok.act{{background:rgba({_INK},calc(var(--a,0)*{_FULL}));color:inherit}}"
        ".tok.peak{font-weight:700;border-bottom:3px solid currentColor;outline:1px solid currentColor}"
        f".strip-key .tok.peak{{background:rgba({_INK},{_FULL})}}"
        ".tok.unread{border-bottom-style:dotted;opacity:.7}"
    )


def _token(token: str, value: float, scale: float, *, peak: bool) -> str:
    if math.isnan(value):
        return _span(token, 'span class="tok act unread"', "activation not stored")
    shade = _shade(value / scale if scale > 0 else 0.0)
    said = f"activation {figures(value)}" + (", the peak of the text" if peak else "")
    return _span(token, f'mark class="tok act peak"{shade}' if peak else f'span class="tok act"{shade}', said)


def _span(token: str, opening: str, said: str) -> str:
    name = opening.split(" ", 1)[0]
    return f'<{opening} title="{escaped(f"“{token}” – {said}")}">{token_body(token)}</{name}>'


def _key(words: str, strength: float) -> str:
    return f'<span class="tok act"{_shade(strength)}>{words}</span>'


def _shade(strength: float) -> str:
    """A share of full strength as an attribute; whatever is active can be seen."""
    shown = _FAINTEST + (1 - _FAINTEST) * min(1.0, strength)
    return f' style="--a:{shown:.2f}"' if strength > 0 else ""
