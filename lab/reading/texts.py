"""Texts: prompts with their completions as model input, in pieces that fit in memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.models.padding import left_padded, token_positions
from lab.tasks.problem import Problem

MOST_ROWS, MOST_LOGITS = 256, 2**25
"""Rows read at once, and numbers in their logits: a vocabulary of 50,000 leaves room for a few rows only."""


class Row(NamedTuple):
    """One text."""

    context: list[int]
    """Token ids that are given."""
    completion: list[int]
    """Token ids whose probabilities are asked for; at least one."""


class Texts(NamedTuple):
    """Rows of one piece, padded on the left."""

    rows: Sequence[Row]
    tokens: Int[Tensor, "text pos"]
    mask: Bool[Tensor, "text pos"]


def pieces(model: Model, rows: Sequence[Row]) -> Iterator[tuple[Sequence[int], Texts]]:
    """Pieces of `rows`, each with the indices of its rows; rows of like length share a piece."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].context) + len(rows[index].completion))
    while order:
        longest = len(rows[order[-1]].context) + len(rows[order[-1]].completion)
        n_rows = max(1, min(MOST_ROWS, MOST_LOGITS // (longest * model.anatomy.d_vocab)))
        chosen, order = order[-n_rows:], order[:-n_rows]
        padded = left_padded(model, [rows[index].context + rows[index].completion for index in chosen])
        yield chosen, Texts([rows[index] for index in chosen], padded.tokens, padded.mask)


def trace_rows(model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> list[Row]:
    """The rows of a `TRACES` table: the prompt is the context."""
    return [
        Row(model.tokenizer(problems[problem_id].prompt).input_ids, tokens)
        for problem_id, tokens in traces.select("problem_id", "tokens").iter_rows()
    ]


def completion_logits(model: Model, read: Texts) -> Float[Tensor, "text kept d_vocab"]:
    """Logits of the last tokens of every row, as many as the longest completion has, each at the token before it."""
    longest = max(len(row.completion) for row in read.rows)
    output = model.network(
        input_ids=read.tokens,
        attention_mask=read.mask.long(),
        position_ids=token_positions(read.mask),
        use_cache=False,
        logits_to_keep=longest + 1,
    )
    return output.logits[:, :-1]
