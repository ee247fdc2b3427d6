"""Trace cards: example completions with their routes, verdicts and reasons, as HTML."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from lab.report.markup import escaped
from lab.report.tokens import TokenStrip, legend, token_strip

_OPEN = 6


def trace_cards(examples: pl.DataFrame) -> str:
    """Examples in table order; all but the first few are folded away."""
    cards = [_card(row) for row in examples.iter_rows(named=True)]
    rest = "".join(cards[_OPEN:])
    more = f"{len(cards) - _OPEN} more trace{'' if len(cards) == _OPEN + 1 else 's'}"
    folded = f"<details><summary>{more}</summary>{rest}</details>" if rest else ""
    return legend() + "".join(cards[:_OPEN]) + folded


def _card(row: Mapping[str, Any]) -> str:
    strip = TokenStrip(tokens=tuple(row["tokens"]), routes=tuple(row["routes"]), logprobs=tuple(row["logprobs"]))
    reason = "" if row["reason"] == "ok" else f'<span class="reason">{escaped(row["reason"])}</span>'
    return (
        '<article class="trace">'
        f'<header><b>{escaped(row["label"])}</b> <span class="count">{strip.counted()}</span></header>'
        f'<p class="asked"><span class="prompt">{escaped(row["prompt"])}</span> '
        f'<span class="gold">gold answer <b>{escaped(row["gold"])}</b></span> '
        f'<span class="id">{escaped(row["problem_id"])}</span></p>'
        f"{token_strip(strip)}"
        f'<p class="verdict">{_verdict(row)} {reason}</p>'
        "</article>"
    )


def _verdict(row: Mapping[str, Any]) -> str:
    answer = (
        '<span class="yes">✓ answer right</span>' if row["answer_correct"] else '<span class="no">✗ answer wrong</span>'
    )
    process = {
        True: '<span class="yes">✓ process valid</span>',
        False: '<span class="no">✗ process not valid</span>',
        None: '<span class="unknown">? process cannot be checked</span>',
    }[row["process_valid"]]
    return f"{answer} {process}"
