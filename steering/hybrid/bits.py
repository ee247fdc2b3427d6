"""bits: what crossed from the tuned model while a hybrid wrote, in a code whose rates both sides know."""

import polars as pl

from steering.hybrid.act import reads_tuned_category
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.router import asks_tuned


def problem_bits(traces: pl.DataFrame, hybrid: Hybrid) -> pl.DataFrame:
    """`bits` that each completion of an arm took, one row for each (`problem_id`, `sample_index`) of its `TRACES`.

    The sum over the completion's tokens of three lengths. Gate: -log2 of the arm's measured rate of what the gate did
    at the token, where the router asks the tuned model. Category: -log2 of the measured frequency of the token's
    category among routed tokens, where the tuned model's stream was read for it. Content: `content_bits` as recorded.
    A hybrid that never asks the tuned model costs exactly 0; takeover of every token costs the cross-entropy of the
    written tokens under the base; an arm's gates cost the binary entropy of its rate for each token on average
    (Shannon 1948: ideal code lengths under the measured rates, which themselves are not paid for).
    """
    tokens = traces.select(
        "problem_id",
        "sample_index",
        "content_bits",
        "categories",
        routed=pl.col("routes").list.eval(pl.element() > 0),
    ).explode("content_bits", "categories", "routed")
    bits = pl.col("content_bits").cast(pl.Float64)
    if asks_tuned(hybrid.router):
        bits = bits + code_length("routed")
    if reads_tuned_category(hybrid.act):
        bits = bits + pl.when("routed").then(code_length("routed", "categories") - code_length("routed")).otherwise(0.0)
    keys = ("problem_id", "sample_index")
    return tokens.with_columns(bits=bits).group_by(*keys, maintain_order=True).agg(pl.col("bits").sum())


def code_length(*columns: str) -> pl.Expr:
    """-log2 of the share of all rows that have the same values in `columns`."""
    return (pl.len() / pl.len().over(*columns)).log(2)
