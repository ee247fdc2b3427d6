"""differences: how much more every feature is active as the tuned model reads the texts than as the base model does."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int, Int64

from lab.metrics.bootstrap import ratio_intervals
from lab.records.errors import StorageError
from probes.sae.dictionary import Sae
from probes.scores.shard_features import read_texts, shard_features
from probes.storage.store import Store, read_index
from probes.tables import DIFFERENCES


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProblemSums:
    """What all features add up to in the tokens of each problem."""

    problems: tuple[str, ...]
    """Ids, in the order of the texts."""
    n_tokens: Int64[np.ndarray, " problem"]
    activation: Float64[np.ndarray, "problem d_sae"]
    squared: Float64[np.ndarray, " d_sae"]
    """Squared activation at all tokens."""


def differences(base: Store, tuned: Store, sae: Sae, weights: Int[np.ndarray, "boot problem"]) -> pl.DataFrame:
    """`DIFFERENCES` rows, one a feature, of two stores of the same tokens, each read once.

    Means are over tokens. `weights` are `lab.metrics.bootstrap.resamples` of the problems in the order of the texts:
    a resample's difference is that of the sums over its problems, divided by their tokens, so that both models see the
    same resample. The effect size divides by sqrt((var_base + var_tuned) / 2) over tokens. An interval is NaN with
    fewer than two problems, and where no resample differs, as of a feature that never fires.

    Memory does not grow with the tokens: it holds 3 * n_problems * d_sae numbers. Raises StorageError for stores of
    other texts or positions, and for weights of other problems, and as `shard_features` does.
    """
    if (base.plan.texts, base.plan.positions) != (tuned.plan.texts, tuned.plan.positions):
        raise StorageError(
            f"{base.path} and {tuned.path} hold other tokens: want one capture of the same texts at the same positions "
            "by the base model and one by the tuned model"
        )
    before, after = problem_sums(base, sae), problem_sums(tuned, sae)
    n_tokens = before.n_tokens
    if weights.shape[1] != len(n_tokens):
        raise StorageError(
            f"the texts answer {len(n_tokens)} problems and the resamples are of {weights.shape[1]}: make them with "
            "resamples(n_problems, ...) for the problems that have a stored token"
        )
    n_all = n_tokens.sum()
    means = [side.activation.sum(axis=0) / n_all for side in (before, after)]
    spreads = [side.squared / n_all - mean**2 for side, mean in zip((before, after), means, strict=True)]
    # A variance may come out a hair below 0.
    pooled = np.sqrt(np.maximum(spreads[0] + spreads[1], 0.0) / 2)
    difference = means[1] - means[0]
    drawn = ratio_intervals(after.activation - before.activation, n_tokens, weights)
    return DIFFERENCES.checked(
        pl.DataFrame(
            {
                "feature": np.arange(sae.d_sae, dtype=np.int32),
                "base_mean": means[0],
                "tuned_mean": means[1],
                "difference": difference,
                "low": drawn.low,
                "high": drawn.high,
                "effect_size": np.divide(difference, pooled, out=np.full(sae.d_sae, np.nan), where=pooled > 0),
            }
        )
    )


def problem_sums(store: Store, sae: Sae) -> ProblemSums:
    """The `shard_problem_sums` of all shards, added up in their order."""
    order = read_texts(store)["problem_id"].unique(maintain_order=True)
    return add_problem_sums(
        (shard_problem_sums(store, sae, number) for number in range(len(store.portions))), tuple(order), sae.d_sae
    )


def shard_problem_sums(store: Store, sae: Sae, number: int) -> ProblemSums:
    """The sums of one shard, a function of its arguments alone; in float64."""
    problem_ids = read_index(store, number)["problem_id"]
    problems = problem_ids.unique(maintain_order=True)
    code = dict(zip(problems, range(len(problems)), strict=True))
    of_row = torch.tensor([code[problem] for problem in problem_ids], device=sae.W_dec.device)
    activation = torch.zeros(len(problems), sae.d_sae, dtype=torch.float64, device=sae.W_dec.device)
    squared = torch.zeros(sae.d_sae, dtype=torch.float64, device=sae.W_dec.device)
    for chosen, features in shard_features(store, sae, number):
        exact = features.double()
        for problem in of_row[chosen].unique():
            activation[problem] += exact[of_row[chosen] == problem].sum(dim=0)
        squared += exact.square().sum(dim=0)
    return ProblemSums(
        problems=tuple(problems),
        n_tokens=of_row.bincount(minlength=len(problems)).cpu().numpy(),
        activation=activation.cpu().numpy(),
        squared=squared.cpu().numpy(),
    )


def add_problem_sums(parts: Iterable[ProblemSums], order: tuple[str, ...], d_sae: int) -> ProblemSums:
    """Together, the problems in `order`; those without a token are left out. Holds one part at a time."""
    place = {problem: number for number, problem in enumerate(order)}
    n_tokens = np.zeros(len(order), dtype=np.int64)
    activation, squared = np.zeros((len(order), d_sae)), np.zeros(d_sae)
    for part in parts:
        places = [place[problem] for problem in part.problems]
        n_tokens[places] += part.n_tokens
        activation[places] += part.activation
        squared += part.squared
    there = n_tokens > 0
    return ProblemSums(
        problems=tuple(np.array(order, dtype=object)[there]),
        n_tokens=n_tokens[there],
        activation=activation if there.all() else activation[there],
        squared=squared,
    )
