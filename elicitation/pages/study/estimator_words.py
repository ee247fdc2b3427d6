"""Estimator words: what each estimator asks, what its quantities mean, and why two of them need not agree."""

import tomllib

from elicitation.pages.kit.markup import PAGES

_WORDS = tomllib.loads((PAGES / "study" / "estimators.toml").read_text(encoding="utf-8"))
ASKS: dict[str, tuple[str, str]] = {name: (known["name"], known["asks"]) for name, known in _WORDS["estimators"].items()}
"""Estimator -> its name and what it asks."""
REASONS: dict[tuple[str, str], str] = {
    (reason["first"], reason.get("second", "")): reason["words"] for reason in _WORDS["reasons"]
}
"""How estimator and quantity of two shares begin, in either order, the second empty for any -> why they may differ."""


def quantity_words(estimator: str, quantity: str) -> str:
    """The meaning in plain words; empty for a quantity that is not known here."""
    meanings: dict[str, str] = _WORDS["estimators"].get(estimator, {}).get("quantities", {})
    return next((words for start, words in meanings.items() if quantity.startswith(start)), "")


def declared_reason(one: str, other: str) -> str:
    """Why two shares, each an estimator and a quantity, may differ; empty where no reason is known.

    Two of one estimator need a reason that speaks of both.
    """
    same = one.split(" ")[0] == other.split(" ")[0]
    for (first, second), words in REASONS.items():
        fits = any(_begins(a, first) and _begins(b, second) for a, b in ((one, other), (other, one)))
        if fits and (second or not same):
            return words
    return ""


def _begins(name: str, start: str) -> bool:
    return not start or f"{name} ".startswith(f"{start} ")
