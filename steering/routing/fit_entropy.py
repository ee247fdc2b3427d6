"""fit_entropy: the entropy above which the base model itself is unsure as often as is wanted."""

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from lab.errors import VectorError
from lab.models.load import Model
from lab.reading.texts import completion_logits, pieces, trace_rows
from lab.tasks.problem import Problem
from steering.hybrid.router import EntropyAbove
from steering.routing.threshold import threshold


def fit_entropy(model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem], open_share: float) -> EntropyAbove:
    """A router that opens at `open_share` of the tokens of `traces`, `TRACES` rows of the model's own, or near it.

    Raises VectorError for a share outside 0 to 1.
    """
    if not 0 <= open_share <= 1:
        raise VectorError(f"a router that opens at a share of {open_share} of all tokens: want a number from 0 to 1")
    found = entropies(model, traces, problems)
    return EntropyAbove(max(0.0, threshold(found, round(open_share * len(found)))))


@torch.inference_mode()
def entropies(model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Float[np.ndarray, " token"]:
    """Entropy of the model's next-token distribution, at temperature 1 and in nats, before every token of `traces`."""
    rows = trace_rows(model, traces, problems)
    found: list[Float[np.ndarray, " token"]] = [np.empty(0)] * len(rows)
    for chosen, read in pieces(model, rows):
        entropy = torch.special.entr(completion_logits(model, read).float().softmax(dim=-1)).sum(dim=-1).cpu().numpy()
        for place, index in enumerate(chosen):
            found[index] = entropy[place, -len(rows[index].completion) :].astype(np.float64)
    return np.concatenate(found)
