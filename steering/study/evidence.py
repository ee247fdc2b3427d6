"""Evidence for vectors: what the two models did on training problems, as tables of activations and decisions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.models.padding import left_padded, token_positions
from lab.models.pair import ModelPair
from lab.tables import Column, Schema
from lab.tasks.problem import Problem
from probes.capture import capture
from probes.site import Site
from steering.fit.gradient import Decisions

PIECE = 32
"""Texts read at once: whole texts, with logits over the vocabulary at every token, take far more room than one step."""

DECISIONS = Schema(
    "decisions",
    (
        Column("problem_id", pl.String, "training problem"),
        Column("sample_index", pl.Int32, "the tuned model's trace of it"),
        Column("position", pl.Int32, "token of the completion that is at stake, from 0"),
        Column("base_token", pl.Int32, "what the base model would write there, greedily"),
        Column("tuned_token", pl.Int32, "what the tuned model would write there, greedily"),
    ),
)

ACTIVATIONS = Schema(
    "activations",
    (
        Column("row", pl.Int32, "row of the tensor `activations` in activations.safetensors"),
        Column("side", pl.String, "positive: solved by the tuned model; negative: failed by the base model"),
        Column("problem_id", pl.String, "training problem"),
        Column("sample_index", pl.Int32, "trace of it"),
        Column("position", pl.Int32, "token of the completion whose residual this is, from 0"),
        Column("token", pl.Int32, "that token's id"),
    ),
)


class Texts(NamedTuple):
    """Prompts with their completions, padded on the left."""

    tokens: Int[Tensor, "text pos"]
    mask: Bool[Tensor, "text pos"]
    n_completion: list[int]
    """Tokens of each completion; they end the row."""


def texts(model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Texts:
    """The rows of a `TRACES` table as model input."""
    rows = list(traces.select("problem_id", "tokens").iter_rows())
    padded = left_padded(
        model, [model.tokenizer(problems[problem_id].prompt).input_ids + tokens for problem_id, tokens in rows]
    )
    return Texts(padded.tokens, padded.mask, [len(tokens) for _, tokens in rows])


def slices(traces: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The table in pieces of `PIECE` rows."""
    for start in range(0, traces.height, PIECE):
        yield traces.slice(start, PIECE)


@torch.inference_mode()
def decisions(pair: ModelPair, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> pl.DataFrame:
    """Every token of `traces` at which base and tuned model, reading the same text, would greedily differ."""
    rows: list[dict[str, object]] = []
    for piece in slices(traces):
        read = texts(pair.base, piece, problems)
        base, tuned = (greedy_tokens(model, read) for model in (pair.base, pair.tuned))
        for index, (problem_id, sample_index) in enumerate(piece.select("problem_id", "sample_index").iter_rows()):
            n = read.n_completion[index]
            # The token at place p is decided at place p - 1.
            ours, theirs = base[index, -n - 1 : -1], tuned[index, -n - 1 : -1]
            rows += [
                {
                    "problem_id": problem_id,
                    "sample_index": sample_index,
                    "position": position,
                    "base_token": int(ours[position]),
                    "tuned_token": int(theirs[position]),
                }
                for position in (ours != theirs).nonzero()[:, 0].tolist()
            ]
    return DECISIONS.frame(rows)


def greedy_tokens(model: Model, read: Texts) -> Int[Tensor, "text kept"]:
    """The most likely next token at the last places, from just before the longest completion on."""
    output = model.network(
        input_ids=read.tokens,
        attention_mask=read.mask.long(),
        position_ids=token_positions(read.mask),
        use_cache=False,
        logits_to_keep=max(read.n_completion) + 1,
    )
    return output.logits.argmax(dim=-1)


def contexts(model: Model, chosen: pl.DataFrame, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Decisions:
    """`DECISIONS` rows as input of the gradient fit: the text before each decision, and the tuned model's token."""
    tokens_of = {
        (problem_id, sample_index): tokens
        for problem_id, sample_index, tokens in traces.select("problem_id", "sample_index", "tokens").iter_rows()
    }
    before = chosen.select("problem_id", "sample_index", "position").iter_rows()
    prefixes = [
        model.tokenizer(problems[problem_id].prompt).input_ids + tokens_of[problem_id, sample_index][:position]
        for problem_id, sample_index, position in before
    ]
    padded = left_padded(model, prefixes)
    targets = torch.tensor(chosen["tuned_token"].to_list(), dtype=torch.long, device=model.device)
    return Decisions(padded.tokens, padded.mask, targets)


def opening_activations(
    model: Model, site: Site, sides: Mapping[str, pl.DataFrame], problems: Mapping[str, Problem]
) -> tuple[Float[Tensor, "row d_model"], pl.DataFrame]:
    """The residual just after the first token of every trace of every side, with its `ACTIVATIONS` index."""
    vectors: list[Tensor] = []
    index: list[dict[str, object]] = []
    for side, traces in sides.items():
        for piece in slices(traces):
            read = texts(model, piece, problems)
            stream = capture(model, read.tokens, read.mask, [site])[site]
            first = torch.tensor([-n for n in read.n_completion], device=stream.device)
            vectors.append(stream[torch.arange(len(first), device=stream.device), first].float().cpu())
            index += rows_of(piece, side, len(index))
    joined = torch.cat(vectors) if vectors else torch.zeros(0, model.anatomy.d_model)
    return joined, ACTIVATIONS.frame(index)


def rows_of(traces: pl.DataFrame, side: str, start: int) -> Sequence[dict[str, object]]:
    """Index rows of the first tokens of `traces`, numbered from `start`."""
    return [
        {
            "row": start + offset,
            "side": side,
            "problem_id": problem_id,
            "sample_index": sample_index,
            "position": 0,
            "token": tokens[0],
        }
        for offset, (problem_id, sample_index, tokens) in enumerate(
            traces.select("problem_id", "sample_index", "tokens").iter_rows()
        )
    ]
