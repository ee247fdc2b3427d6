"""Token strip: one completion as a row of tokens, coloured by who chose each."""

import math
from dataclasses import dataclass

from lab.errors import EstimateError
from lab.report.markup import escaped
from lab.report.numerals import percent
from lab.report.palette import MUTED, STEERED, TUNED, faded
from lab.report.token_text import token_body

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
