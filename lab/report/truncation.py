"""Truncation: a warning where the token limit, not the model, may have made answers wrong; as HTML."""

import polars as pl

from lab.report.markup import escaped
from lab.report.numerals import percent
from lab.report.rungs import rungs

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
