"""disagreements: where base and tuned model would write different tokens of training texts, and what is read there."""

from collections.abc import Mapping

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from lab.models.load import Model, ModelPair
from lab.records.tables import Column, Schema
from lab.sampling.decoder import left_padded
from lab.scoring.scores import completion_logits, pieces, trace_rows
from lab.tasks.problem import Problem
from probes.capture.capture import capture
from probes.capture.site import Site
from steering.fits.gradient import Disagreements

DISAGREEMENTS = Schema(
    "disagreements",
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


@torch.inference_mode()
def disagreements(pair: ModelPair, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> pl.DataFrame:
    """Every token of `traces` at which base and tuned model, reading the same text, would greedily differ."""
    rows = trace_rows(pair.base, traces, problems)
    names = traces.select("problem_id", "sample_index").rows()
    found: list[list[dict[str, object]]] = [[] for _ in rows]
    for chosen, read in pieces(pair.base, rows):
        base, tuned = (completion_logits(model, read).argmax(dim=-1) for model in (pair.base, pair.tuned))
        for place, index in enumerate(chosen):
            n = len(rows[index].completion)
            ours, theirs = base[place, -n:], tuned[place, -n:]
            problem_id, sample_index = names[index]
            for position in (ours != theirs).nonzero()[:, 0].tolist():
                where = {"problem_id": problem_id, "sample_index": sample_index, "position": position}
                tokens = {"base_token": int(ours[position]), "tuned_token": int(theirs[position])}
                found[index].append({**where, **tokens})
    return DISAGREEMENTS.frame([row for text in found for row in text])


def contexts(
    model: Model, chosen: pl.DataFrame, traces: pl.DataFrame, problems: Mapping[str, Problem]
) -> Disagreements:
    """`DISAGREEMENTS` rows as input of the gradient fit: the text before each of them, and the tuned model's token."""
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
    return Disagreements(padded.tokens, padded.mask, targets)


def first_token_activations(
    model: Model, site: Site, sides: Mapping[str, pl.DataFrame], problems: Mapping[str, Problem]
) -> tuple[Float[Tensor, "row d_model"], pl.DataFrame]:
    """The residual just after the first token of every trace of every side, with its `ACTIVATIONS` index."""
    given = pl.concat([traces.with_columns(side=pl.lit(side)) for side, traces in sides.items()])
    index = given.select(
        pl.int_range(pl.len(), dtype=pl.Int32).alias("row"),
        "side",
        "problem_id",
        "sample_index",
        pl.lit(0, dtype=pl.Int32).alias("position"),
        pl.col("tokens").list.first().alias("token"),
    )
    rows = trace_rows(model, given, problems)
    joined = torch.zeros(len(rows), model.anatomy.d_model)
    for chosen, read in pieces(model, rows):
        stream = capture(model, read.tokens, read.mask, [site])[site]
        first = torch.tensor([-len(rows[place].completion) for place in chosen], device=stream.device)
        joined[list(chosen)] = stream[torch.arange(len(first), device=stream.device), first].float().cpu()
    return joined, ACTIVATIONS.checked(index)
