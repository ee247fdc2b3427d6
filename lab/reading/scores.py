"""scores: what base and tuned model think of completions that one of them wrote, token by token."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from lab.estimators.evidence import RANKS, SCORES
from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.reading.texts import Row, completion_logits, pieces, trace_rows
from lab.tasks.problem import Problem


class Readings(NamedTuple):
    """Both models' view of the same completions."""

    scores: pl.DataFrame
    """`SCORES`."""
    ranks: pl.DataFrame
    """`RANKS`."""


@torch.inference_mode()
def scores(pair: ModelPair, writer: str, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Readings:
    """Reads `traces`, which `writer` ("base" or "tuned") sampled, with both models, at temperature 1.

    A completion that was cut at the token limit has no end token, and its probability is that of the cut text. Sums
    are over the text's tokens in double precision.
    """
    names = traces.select("problem_id", "sample_index").rows()
    rows = trace_rows(pair.base, traces, problems)
    totals: list[dict[str, object]] = [{}] * len(rows)
    ranks: list[pl.DataFrame] = []
    for chosen, read in pieces(pair.base, rows):
        base, tuned = (completion_logits(model, read).double().log_softmax(dim=-1) for model in (pair.base, pair.tuned))
        ours, theirs = (base, tuned) if writer == "base" else (tuned, base)
        divergence = (ours.exp() * (ours - theirs)).sum(dim=-1)
        rank = 1 + (base > base.gather(-1, tuned.argmax(dim=-1, keepdim=True))).sum(dim=-1)
        entropy = -(base.exp() * base).sum(dim=-1)
        for place, index in enumerate(chosen):
            tokens = torch.tensor(rows[index].completion, device=base.device)
            n = len(tokens)
            problem_id, sample_index = names[index]
            totals[index] = {
                "writer": writer,
                "problem_id": problem_id,
                "sample_index": sample_index,
                "n_tokens": n,
                "logp_base": float(base[place, -n:].gather(-1, tokens[:, None]).sum()),
                "logp_tuned": float(tuned[place, -n:].gather(-1, tokens[:, None]).sum()),
                "token_kl": float(divergence[place, -n:].sum()),
            }
            ranks.append(
                pl.DataFrame(
                    {
                        "position": np.arange(n, dtype=np.int32),
                        "rank": rank[place, -n:].int().cpu().numpy(),
                        "entropy": entropy[place, -n:].cpu().numpy(),
                    }
                ).select(
                    pl.lit(writer).alias("writer"),
                    pl.lit(problem_id).alias("problem_id"),
                    pl.lit(sample_index, dtype=pl.Int32).alias("sample_index"),
                    pl.all(),
                )
            )
    order = ["problem_id", "sample_index", "position"]
    return Readings(SCORES.frame(totals), RANKS.checked(pl.concat(ranks).sort(order)))


@torch.inference_mode()
def answer_scores(model: Model, rows: list[Row]) -> tuple[Float[np.ndarray, " row"], list[bool]]:
    """(log-probability in nats of each row's completion, whether greedy decoding would write it) under one model."""
    logps, greedy = np.zeros(len(rows)), [False] * len(rows)
    for chosen, read in pieces(model, rows):
        table: Float[Tensor, "text kept d_vocab"] = completion_logits(model, read).double().log_softmax(dim=-1)
        for place, index in enumerate(chosen):
            tokens = torch.tensor(rows[index].completion, device=table.device)
            mine = table[place, -len(tokens) :]
            logps[index] = float(mine.gather(-1, tokens[:, None]).sum())
            greedy[index] = bool((mine.argmax(dim=-1) == tokens).all())
    return logps, greedy
