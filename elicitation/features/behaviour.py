"""Behaviour: how a tuned model opens its answers where its base model opens them otherwise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from lab.models.load import Model
from lab.scoring.scores import Row, completion_logits, pieces
from lab.tasks.problem import Problem
from probes.attribution.contrast import CONTRASTS
from probes.sae.dictionary import Sae, splice


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """A first token of answers, against another."""

    toward: int
    """Token id that the tuned model writes, greedily."""
    against: int
    """Token id that the base model would write there, greedily."""


def behaviour(disagreements: pl.DataFrame) -> Behaviour | None:
    """The pair of first tokens that most often tells the models apart in a `DISAGREEMENTS` table; None without any.

    Of pairs that are as frequent, the one with the lower ids.
    """
    pairs = disagreements.filter(pl.col("position") == 0).group_by("tuned_token", "base_token").len()
    if pairs.is_empty():
        return None
    toward, against, _ = pairs.sort("len", "tuned_token", "base_token", descending=[True, False, False]).row(0)
    return Behaviour(toward=toward, against=against)


def behaviour_contrasts(model: Model, problems: Sequence[Problem], sought: Behaviour) -> pl.DataFrame:
    """`CONTRASTS` rows of the prompts of `problems`: the one first token against the other."""
    return CONTRASTS.frame(
        [
            {
                "problem_id": problem.id,
                "tokens": model.tokenizer(problem.prompt).input_ids,
                "toward": [sought.toward],
                "against": [sought.against],
            }
            for problem in problems
        ]
    )


Alteration = Callable[[Float[Tensor, "row pos d_sae"], Sequence[int]], Float[Tensor, "row pos d_sae"]]
"""Features of some prompts, and which prompts they are -> the features in their place."""


@torch.no_grad()
def first_token_rates(
    model: Model,
    prompts: Sequence[Sequence[int]],
    toward: Sequence[int],
    sae: Sae | None = None,
    alter: Alteration | None = None,
) -> Float[np.ndarray, " prompt"]:
    """Probability at temperature 1 that the next token of each prompt (token ids) is one of `toward`.

    It is the expected share of samples that open so, free of sampling noise. With `sae` and `alter`, features are
    altered at every token of the prompt and the part of the stream that the SAE does not explain stays.
    """
    # The completion only says where to read; it comes after the token whose logits count.
    rows = [Row(list(prompt), [toward[0]]) for prompt in prompts]
    rates = np.empty(len(rows))
    for chosen, read in pieces(model, rows):
        if sae is None or alter is None:
            logits = completion_logits(model, read)
        else:
            with splice(model, sae, lambda features, chosen=chosen: alter(features, chosen)):
                logits = completion_logits(model, read)
        share = logits[:, -1].float().softmax(dim=-1)[:, list(toward)].sum(dim=-1)
        rates[list(chosen)] = share.double().cpu().numpy()
    return rates
