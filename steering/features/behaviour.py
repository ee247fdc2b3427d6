"""Behaviour: how a tuned model opens its answers where its base model opens them otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from lab.models.load import Model
from lab.tasks.problem import Problem
from probes.attribution.contrast import CONTRASTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """A first token of answers, against another."""

    toward: int
    """Token id that the tuned model writes, greedily."""
    against: int
    """Token id that the base model would write there, greedily."""


def behaviour(decisions: pl.DataFrame) -> Behaviour | None:
    """The pair of first tokens that most often tells the models apart in a `DECISIONS` table; None without any.

    Of pairs that are as frequent, the one with the lower ids.
    """
    pairs = decisions.filter(pl.col("position") == 0).group_by("tuned_token", "base_token").len()
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
