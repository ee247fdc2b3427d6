"""agreement: how two methods of attribution rank the same features, or the same places, with intervals."""

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from lab.metrics.bootstrap import Interval, percentile_interval
from lab.records.errors import EstimateError
from probes.attribution.effects import problem_sums, require_weights


def feature_agreement(
    effects: pl.DataFrame, reference: pl.DataFrame, contrasts: pl.DataFrame, weights: Int[np.ndarray, "boot problem"]
) -> Interval:
    """Spearman's rank correlation, over features, of their mean effects in two `EFFECTS` tables of the same contrasts.

    The interval resamples problems, by `weights` as in `feature_effects`; a feature that is not active in a resample
    is left out of it. Raises EstimateError where the tables have other features, or fewer than three.
    """
    require_weights(contrasts, weights)
    ours, theirs = problem_sums(effects, contrasts), problem_sums(reference, contrasts)
    if not np.array_equal(ours.features, theirs.features):
        raise EstimateError(
            f"effects of {len(ours.features)} features came with a reference of {len(theirs.features)}, not all the "
            "same: want two methods on the same SAE and contrasts"
        )
    if len(ours.features) < 3:
        raise EstimateError(f"{len(ours.features)} active features cannot be ranked: want at least 3")
    drawn = weights.astype(np.float64)
    mine, its, is_there = drawn @ ours.effects, drawn @ theirs.effects, drawn @ ours.n_active > 0
    replicates = np.array(
        [
            _spearman(_groups(one[there]), _groups(other[there]), np.ones(int(there.sum())))
            for one, other, there in zip(mine, its, is_there, strict=True)
        ]
    )
    value = _spearman(
        _groups(ours.effects.sum(axis=0)), _groups(theirs.effects.sum(axis=0)), np.ones(len(ours.features))
    )
    return percentile_interval(value, replicates, weights.shape[1], bounds=(-1.0, 1.0))


def place_agreement(
    effects: pl.DataFrame, reference: pl.DataFrame, contrasts: pl.DataFrame, weights: Int[np.ndarray, "boot problem"]
) -> Interval:
    """Spearman's rank correlation over all (text, position, feature) of two `EFFECTS` tables of the same contrasts.

    The interval resamples problems, by `weights` as in `feature_effects`: an entry counts as often as its problem is
    drawn. Raises EstimateError where the tables have other entries, such as those of a joint ablation, which has no
    positions, or fewer than three.
    """
    require_weights(contrasts, weights)
    key = ["text", "position", "feature"]
    both = effects.join(reference, on=key, suffix="_reference")
    if not len(both) == len(effects) == len(reference):
        raise EstimateError(
            f"{len(effects)} effects came with a reference of {len(reference)}, {len(both)} of them at the same text, "
            "position and feature: want two methods on the same SAE and contrasts, both with positions"
        )
    if len(both) < 3:
        raise EstimateError(f"{len(both)} effects cannot be ranked: want at least 3")
    problems = contrasts.select(pl.col("problem_id").unique(maintain_order=True)).with_row_index("row")
    owner = both.join(problems, on="problem_id", maintain_order="left")["row"].to_numpy()
    mine, its = (_groups(both[name].to_numpy()) for name in ("effect", "effect_reference"))
    replicates = np.array([_spearman(mine, its, counts[owner].astype(np.float64)) for counts in weights])
    value = _spearman(mine, its, np.ones(len(both)))
    return percentile_interval(value, replicates, weights.shape[1], bounds=(-1.0, 1.0))


def _groups(values: Float[np.ndarray, " item"]) -> Int[np.ndarray, " item"]:
    """For each value how many distinct ones are below it."""
    return np.unique(values, return_inverse=True)[1]


def _spearman(
    one: Int[np.ndarray, " item"], other: Int[np.ndarray, " item"], counts: Float[np.ndarray, " item"]
) -> float:
    """Rank correlation where item i is there `counts[i]` times, ties by their mean rank; NaN where a side is constant.

    The items come as `_groups`, so that counting is all that a resample costs.
    """
    ranks = []
    for groups in (one, other):
        sizes = np.bincount(groups, weights=counts)
        rank = (sizes.cumsum() - sizes / 2)[groups]
        ranks.append(rank - np.average(rank, weights=counts) if counts.any() else rank)
    (mine, its), norm = ranks, np.sqrt(np.prod([(counts * rank**2).sum() for rank in ranks]))
    return float((counts * mine * its).sum() / norm) if norm else float("nan")
