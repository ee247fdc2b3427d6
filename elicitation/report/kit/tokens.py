"""Token strip: one completion as a row of tokens, coloured by who chose each."""

import math
import re
import unicodedata
from dataclasses import dataclass

from elicitation.report.kit.markup import escaped, shortened, visible
from elicitation.report.kit.palette import MUTED, STEERED, TUNED, faded
from lab.records.errors import EstimateError
from lab.records.numerals import figures, percent

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


ROUTES = ("base alone", "steered", "taken from the tuned model")
"""Meaning of the route codes 0, 1, 2."""
_CLASSES = ("r0", "r1", "r2")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStrip:
    """A completion with its routes; a notebook shows it in colour."""

    tokens: tuple[str, ...]
    routes: tuple[int, ...]
    logprobs: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = len(self.tokens), len(self.routes), len(self.logprobs)
        if len(set(counts)) != 1:
            raise EstimateError("token strip: {} tokens, {} routes, {} log-probabilities; want as many".format(*counts))
        if not set(self.routes) <= {0, 1, 2}:
            raise EstimateError(f"token strip: routes {sorted(set(self.routes))}; want 0 base, 1 steered, 2 tuned")

    def __getitem__(self, part: slice) -> "TokenStrip":
        return TokenStrip(tokens=self.tokens[part], routes=self.routes[part], logprobs=self.logprobs[part])

    def counted(self) -> str:
        """How many tokens each route chose, in words."""
        steered, taken = self.routes.count(1), self.routes.count(2)
        parts = [f"{len(self.tokens)} tokens", f"{steered} steered", f"{taken} from the tuned model"]
        return ", ".join([parts[0], *(part for part, n in zip(parts[1:], (steered, taken), strict=True) if n)])

    def _repr_html_(self) -> str:
        return f"<style>{strip_css()}</style>{legend()}{token_strip(self)}"


def token_strip(strip: TokenStrip) -> str:
    """The strip as HTML; each token's route and probability are in its title."""
    return f'<p class="strip">{"".join(map(_span, strip.tokens, strip.routes, strip.logprobs))}</p>'


def legend() -> str:
    """What the colours mean, as HTML."""
    keys = (f'<span class="tok {css}">{name}</span>' for css, name in zip(_CLASSES, ROUTES, strict=True))
    return f'<p class="strip-key">Each token was chosen by: {" ".join(keys)}</p>'


def strip_css() -> str:
    """The style that strips need; a page with `--ink` and friends overrides the inks."""
    return (
        ".strip,.strip-key{color:var(--ink,inherit)}"
        ".strip{font:15px/2.05 ui-monospace,'SF Mono',Menlo,Consolas,monospace;overflow-wrap:anywhere;margin:.4em 0}"
        ".tok{unicode-bidi:isolate;white-space:pre-wrap;padding:.2em .09em;margin:0 .5px;border-radius:3px;"
        f"border-bottom:2px solid var(--grid,{faded(MUTED)})}}"
        f".tok.r1{{background:var(--steered-soft,{faded(STEERED)});border-bottom:3px solid var(--steered,{STEERED})}}"
        f".tok.r2{{background:var(--tuned-soft,{faded(TUNED)});border-bottom:3px double var(--tuned,{TUNED})}}"
        ".strip-key .tok{padding:.15em .45em;margin-right:.5em;white-space:nowrap}"
    )


def _span(token: str, route: int, logprob: float) -> str:
    known = not math.isnan(logprob)
    chance = f"log-prob {logprob:.2f}, probability {percent(math.exp(logprob))}" if known else "log-prob unknown"
    title = escaped(f"“{token}” – {ROUTES[route]} – {chance}".replace("-inf", "−∞"))
    css = f"tok {_CLASSES[route]}" if route else "tok"
    return f'<span class="{css}" title="{title}">{token_body(token)}</span>'


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
        return _strip_span(token, 'span class="tok act unread"', "activation not stored")
    shade = _shade(value / scale if scale > 0 else 0.0)
    said = f"activation {figures(value)}" + (", the peak of the text" if peak else "")
    return _strip_span(token, f'mark class="tok act peak"{shade}' if peak else f'span class="tok act"{shade}', said)


def _strip_span(token: str, opening: str, said: str) -> str:
    name = opening.split(" ", 1)[0]
    return f'<{opening} title="{escaped(f"“{token}” – {said}")}">{token_body(token)}</{name}>'


def _key(words: str, strength: float) -> str:
    return f'<span class="tok act"{_shade(strength)}>{words}</span>'


def _shade(strength: float) -> str:
    """A share of full strength as an attribute; whatever is active can be seen."""
    shown = _FAINTEST + (1 - _FAINTEST) * min(1.0, strength)
    return f' style="--a:{shown:.2f}"' if strength > 0 else ""
