"""Traces: completions token by token, coloured by who chose each, with their verdicts and reasons, as HTML."""

import math
from dataclasses import dataclass
from itertools import accumulate

import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.markup import counted, filled, markup
from elicitation.pages.kit.numerals import percent
from elicitation.pages.kit.tokens import Token, strip, strip_css, strip_key, token_body
from elicitation.pages.study.ladder import bare
from elicitation.pages.study.tables import rungs
from lab.records.errors import EstimateError

ROUTES = ("base alone", "steered", "taken from the tuned model")
"""Meaning of the route codes 0, 1, 2."""
_ROOM = 2500
"""Tokens of all cards together, so that a page of long completions stays small."""
_HEAD, _TAIL, _ASKED = 120, 60, 600
"""Tokens of a completion that are shown where it is longer; characters of a prompt that are."""


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
        parts = (self.routes.count(1), "steered"), (self.routes.count(2), "from the tuned model")
        return ", ".join([f"{len(self.tokens)} tokens", *(f"{n} {words}" for n, words in parts if n)])

    def _repr_html_(self) -> str:
        return f"<style>{strip_css()}</style>{legend()}{token_strip(self)}"


def token_strip(shown: TokenStrip) -> Markup:
    """The strip as HTML; each token's route and probability are in its title."""
    return strip(map(_routed, shown.tokens, shown.routes, shown.logprobs))


def legend() -> Markup:
    """What the colours mean, as HTML."""
    return strip_key("Each token was chosen by", (Token(name, "", f"r{route}") for route, name in enumerate(ROUTES)))


def _routed(text: str, route: int, logprob: float) -> Token:
    known = not math.isnan(logprob)
    chance = f"log-prob {logprob:.2f}, probability {percent(math.exp(logprob))}" if known else "log-prob unknown"
    return Token(text, f"{ROUTES[route]} – {chance}".replace("-inf", "−∞"), f"r{route}" if route else "")


def trace_cards(examples: pl.DataFrame) -> Markup:
    """Examples in table order, as far as there is room; all but the first few are folded away."""
    lengths = [min(len(row["tokens"]), _HEAD + _TAIL) for row in examples.iter_rows(named=True)]
    n_shown = max(1, sum(total <= _ROOM for total in accumulate(lengths)))
    n_left = examples.height - n_shown
    cards = []
    for row in examples.head(n_shown).iter_rows(named=True):
        shown = TokenStrip(tokens=tuple(row["tokens"]), routes=tuple(row["routes"]), logprobs=tuple(row["logprobs"]))
        cut = "" if len(row["prompt"]) <= _ASKED else "…"
        # Of a long prompt the end, where the question is.
        prompt = markup("{}{}", cut, token_body(row["prompt"][-_ASKED:]))
        cards.append((row | {"prompt": prompt}, shown.counted(), _shown(shown)))
    left = f"{counted(n_left, 'trace')} more in the table alone." if n_left else ""
    return filled("study/traces.html", legend=legend(), cards=cards, left=left)


def _shown(shown: TokenStrip) -> Markup:
    """The strip; of a long one its beginning and its end."""
    left = len(shown.tokens) - _HEAD - _TAIL
    if left <= 0:
        return token_strip(shown)
    gap = markup('<p class="note">… {} not shown …</p>', counted(left, "token"))
    return token_strip(shown[:_HEAD]) + gap + token_strip(shown[-_TAIL:])


TOLERATED = 0.05
"""Fraction of completions that may be cut before a reader is warned."""
_NAMED = 3


def truncation_warning(ladder: pl.DataFrame) -> Markup:
    """Names the arms that were cut most often; empty where no arm was cut too often."""
    cut = rungs(ladder, "strict").filter(pl.col("truncated").is_not_nan() & (pl.col("truncated") > TOLERATED))
    if cut.is_empty():
        return Markup("")
    worst = cut.sort("truncated", descending=True, maintain_order=True).head(_NAMED)
    named = ", ".join(f"{bare(row['label'])} ({percent(row['truncated'])})" for row in worst.to_dicts())
    rest = cut.height - worst.height
    return markup(
        '<p class="warning"><b>Completions were cut at the token limit</b>, most often those of: {}{}. What is cut '
        "before its answer counts as wrong, so accuracies may be too low; raise <code>--max-new-tokens</code>.</p>",
        named,
        f", and {counted(rest, 'more arm')}" if rest else "",
    )
