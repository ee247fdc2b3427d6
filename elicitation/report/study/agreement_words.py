"""Agreement words: which of a study's shares agree, which do not, and why two of them need not, as HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from elicitation.report.kit.markup import escaped, numbers
from elicitation.report.study.record_words import counted
from lab.records.numerals import interval, percent

Row = Mapping[str, Any]
"""A row of `ESTIMATES` with a share."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why two shares may differ though neither is wrong."""

    first: str
    """How the estimator and quantity of one begin, such as `E3` or `E5 fitted vector`."""
    second: str
    """The other's; empty for any."""
    words: str

    def fits(self, one: str, other: str) -> bool:
        """Whether it speaks of these two."""
        ways = ((one, other), (other, one))
        return any(_begins(a, self.first) and _begins(b, self.second) for a, b in ways)


REASONS = (
    Reason(
        "E5 fitted vector at the first token, sampled",
        "E5 fitted vector at the first token, greedy",
        "sampling adds slips that a vector at the first token does not mend, and greedy decoding takes them from both "
        "models, so the two gains are not the same",
    ),
    Reason(
        "E3",
        "",
        "E3 measures how far tuning moved the model and how much of that is selection, not where the gain came from: a "
        "skill that was taught can need as little change as one that was there",
    ),
    Reason(
        "E4",
        "",
        "E4 reads the tuned model while the base answers and writes its tokens, so it is blind to whether the base "
        "would have reached them by itself",
    ),
    Reason(
        "E1",
        "E2",
        "E1 counts only problems that the base solved in the samples drawn, so it grows with their number; E2 also "
        "reads chances too small to show in them",
    ),
    Reason(
        "E1",
        "E5",
        "E1 asks what the base ever solves in many samples and depends on their number; E5 asks what one vector makes "
        "it do at once, so it is low where the gain needs more than one direction",
    ),
    Reason(
        "E2",
        "E5",
        "E2 asks what is within the base's reach in many tries; E5 asks what one vector makes it do at once, so it is "
        "low where the gain needs more than one direction",
    ),
)
"""What is known of how the estimators differ, the more particular first; the first that fits two shares holds."""
_UNKNOWN = "no reason is known to the lab"


def agreement_words(shares: Sequence[Row]) -> str:
    """Two shares agree if each lies in the other's interval. Empty where fewer than two can be compared.

    Shares of one estimator are compared only where `REASONS` speaks of both, since they are otherwise parts or
    variants of one answer. Reasons are declared, never read off the numbers.
    """
    given = [row for row in shares if row["refusal"] is None and interval(row["low"], row["high"])]
    pairs = [(a, b) for a, b in combinations(given, 2) if a["estimator"] != b["estimator"] or _declared(a, b)]
    if not pairs:
        return ""
    agreeing = [(a, b) for a, b in pairs if _holds(a, b) and _holds(b, a)]
    differing = [pair for pair in pairs if pair not in agreeing]
    if not differing:
        return f'<p class="note">The {len(given)} shares given agree: each lies within the interval of every other.</p>'
    return f"{_agreed(agreeing)}{_differed(differing, len(pairs))}"


def _agreed(pairs: Sequence[tuple[Row, Row]]) -> str:
    if not pairs:
        return '<p class="note">No two shares lie within each other\'s intervals.</p>'
    named = "; ".join(f"{_name(a)} and {_name(b)}" for a, b in pairs)
    return f'<p class="note"><b>Within each other\'s intervals</b> are {named}.</p>'


def _differed(pairs: Sequence[tuple[Row, Row]], n_compared: int) -> str:
    """All that differ, grouped by the reason that is known for it."""
    groups: dict[str, list[str]] = {}
    for a, b in pairs:
        apart = a["low"] > b["high"] or b["low"] > a["high"]
        said = f"{_brief(a)} and {_brief(b)}" + ("" if apart else ", whose intervals overlap")
        groups.setdefault(_declared(a, b) or _UNKNOWN, []).append(said)
    items = "".join(
        f"<li>{escaped(reason[0].upper() + reason[1:])}:"
        f"{numbers(counted(len(found), 'pair'), f'<ul>{_items(found)}</ul>')}</li>"
        for reason, found in groups.items()
    )
    n = n_compared
    return (
        f'<div class="warning"><b>Not within each other\'s intervals</b> are {len(pairs)} of the {n} '
        f"pair{'' if n == 1 else 's'} that can be compared. Why they need not be:<ul>{items}</ul></div>"
    )


def _items(words: Sequence[str]) -> str:
    return "".join(f"<li>{said}</li>" for said in words)


def _holds(row: Row, other: Row) -> bool:
    return other["low"] <= row["value"] <= other["high"]


def _declared(a: Row, b: Row) -> str:
    one, other = (f"{row['estimator']} {row['quantity']}" for row in (a, b))
    same = a["estimator"] == b["estimator"]
    return next((reason.words for reason in REASONS if (reason.second or not same) and reason.fits(one, other)), "")


def _begins(name: str, start: str) -> bool:
    return not start or f"{name} ".startswith(f"{start} ")


def _name(row: Row) -> str:
    return f"{escaped(row['estimator'])} ({escaped(row['quantity'])})"


def _brief(row: Row) -> str:
    return f"{_name(row)}: {percent(row['value'], 0)} {interval(row['low'], row['high'], 0)}"
