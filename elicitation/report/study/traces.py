"""Trace cards: example completions with their routes, verdicts and reasons, as HTML."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import polars as pl

from elicitation.report.kit.markup import escaped
from elicitation.report.kit.tokens import TokenStrip, legend, token_body, token_strip
from elicitation.report.study.record_words import counted, rungs
from lab.records.numerals import percent

_OPEN, _ROOM = 6, 2500
"""Cards that are not folded away; tokens of all cards together, so that a page of long completions stays small."""
_HEAD, _TAIL, _ASKED = 120, 60, 600
"""Tokens of a completion that are shown where it is longer; characters of a prompt that are."""


def trace_cards(examples: pl.DataFrame) -> str:
    """Examples in table order, as far as there is room; all but the first few are folded away."""
    lengths = [min(len(row["tokens"]), _HEAD + _TAIL) for row in examples.iter_rows(named=True)]
    n_shown = max(1, sum(total <= _ROOM for total in accumulate(lengths)))
    cards = [_card(row) for row in examples.head(n_shown).iter_rows(named=True)]
    rest, n_left = "".join(cards[_OPEN:]), examples.height - n_shown
    folded = f"<details><summary>{counted(n_shown - _OPEN, 'more trace')}</summary>{rest}</details>" if rest else ""
    left = f'<p class="note">{counted(n_left, "trace")} more in the table alone.</p>' if n_left else ""
    return f"{legend()}{''.join(cards[:_OPEN])}{folded}{left}"


def _card(row: Mapping[str, Any]) -> str:
    strip = TokenStrip(tokens=tuple(row["tokens"]), routes=tuple(row["routes"]), logprobs=tuple(row["logprobs"]))
    reason = "" if row["reason"] == "ok" else f'<span class="reason">{escaped(row["reason"])}</span>'
    return (
        '<article class="trace">'
        f'<header><b>{escaped(row["label"])}</b> <span class="count">{strip.counted()}</span></header>'
        f'<p class="asked">{_prompt(row["prompt"])} '
        f'<span class="gold">gold answer <b>{escaped(row["gold"])}</b></span> '
        f'<span class="id">{escaped(row["problem_id"])}</span></p>'
        f"{_shown(strip)}"
        f'<p class="verdict">{_verdict(row)} {reason}</p>'
        "</article>"
    )


def _prompt(prompt: str) -> str:
    """What was asked; of a long prompt the end, where the question is."""
    cut = "" if len(prompt) <= _ASKED else "…"
    return f'<span class="prompt">{cut}{token_body(prompt[-_ASKED:])}</span>'


def _shown(strip: TokenStrip) -> str:
    """The strip; of a long one its beginning and its end."""
    left = len(strip.tokens) - _HEAD - _TAIL
    if left <= 0:
        return token_strip(strip)
    gap = f'<p class="note">… {counted(left, "token")} not shown …</p>'
    return f"{token_strip(strip[:_HEAD])}{gap}{token_strip(strip[-_TAIL:])}"


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


TOLERATED = 0.05
"""Fraction of completions that may be cut before a reader is warned."""
_NAMED = 3


def truncation_warning(ladder: pl.DataFrame) -> str:
    """Names the arms that were cut most often; empty where no arm was cut too often."""
    cut = rungs(ladder, "strict").filter(pl.col("truncated").is_not_nan() & (pl.col("truncated") > TOLERATED))
    if cut.is_empty():
        return ""
    worst = cut.sort("truncated", descending=True, maintain_order=True).head(_NAMED)
    named = [f"{row['label'].removeprefix('+').strip()} ({percent(row['truncated'])})" for row in worst.to_dicts()]
    rest = cut.height - worst.height
    more = f", and {rest} more arm{'' if rest == 1 else 's'}" if rest else ""
    return (
        '<p class="warning"><b>Completions were cut at the token limit</b>, most often those of: '
        f"{escaped(', '.join(named))}{more}. A completion that is cut counts as wrong, so these accuracies may be too "
        "low; raise <code>--max-new-tokens</code>.</p>"
    )
