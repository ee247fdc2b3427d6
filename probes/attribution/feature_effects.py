"""feature_effects: what each feature adds over many texts, and how complete an attribution is."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from lab.metrics.bootstrap import Interval, percentile_interval, ratio_intervals
from lab.records.errors import EstimateError
from probes.attribution.effects import Method, method_name
from probes.tables import FEATURE_EFFECTS

CHUNK = 2**20
"""Rows of a lazy `EFFECTS` table that are read at once."""


class Completeness(NamedTuple):
    """How far the features' effects are from what all of them add together."""

    error: float
    """Mean absolute difference over texts, in nats."""
    total: float
    """Mean absolute effect of all features together, in nats."""
    share: float
    """error / total; NaN where that is 0."""


class Sums(NamedTuple):
    """Effects summed over the positions of each text, and over the texts of each problem."""

    features: Int[np.ndarray, " feature"]
    """Those that are active anywhere, ascending."""
    effects: Float[np.ndarray, "problem feature"]
    n_active: Int[np.ndarray, "problem feature"]
    """Texts of the problem in which the feature is active."""
    n_texts: Int[np.ndarray, " problem"]


def feature_effects(
    effects: pl.DataFrame | pl.LazyFrame,
    contrasts: pl.DataFrame,
    method: Method,
    weights: Int[np.ndarray, "boot problem"],
) -> pl.DataFrame:
    """`FEATURE_EFFECTS` rows: the mean over the texts of `contrasts` of the sum over positions of an `EFFECTS` table.

    A text in which a feature is not active counts as 0, and features that are active nowhere are absent. `weights` are
    those of `lab.metrics.bootstrap.resamples` for the problems of `contrasts` in order of first appearance; a problem
    of several texts is drawn with all of them. The interval is that of `ratio_intervals`: NaN with fewer than two
    problems, or where the mean is the same in every resample. Raises EstimateError where effects and contrasts, or
    contrasts and weights, are of other problems.
    """
    require_weights(contrasts, weights)
    sums = problem_sums(effects, contrasts)
    mean = ratio_intervals(sums.effects, sums.n_texts, weights)
    return FEATURE_EFFECTS.checked(
        pl.DataFrame(
            {
                "feature": sums.features,
                "method": [method_name(method)] * len(sums.features),
                "effect": mean.value,
                "low": mean.low,
                "high": mean.high,
                "n_texts": sums.n_active.sum(axis=0),
            },
            schema=FEATURE_EFFECTS.dtypes,  # pyright: ignore[reportArgumentType]
        )
    )


def problem_sums(effects: pl.DataFrame | pl.LazyFrame, contrasts: pl.DataFrame) -> Sums:
    """The sums of an `EFFECTS` table by problem and feature; problems in the order in which `contrasts` names them.

    A lazy table is read three times, a part at a time, so memory does not grow with its places. Effects are added in
    the order of the rows, so that the sums are the same in every run, which a streamed `group_by` does not promise.
    Raises EstimateError where a text of `effects` is not a row of `contrasts` with the same problem.
    """
    counted = contrasts.group_by("problem_id", maintain_order=True).len().with_row_index("row")
    texts = contrasts.select(pl.int_range(pl.len(), dtype=pl.Int32).alias("text"), "problem_id")
    _require_texts(effects.lazy(), texts)
    active = (
        effects.lazy()
        .group_by("problem_id", "feature")
        .agg(pl.col("text").n_unique())
        .collect(engine="streaming")
        .join(counted, on="problem_id")
    )
    features = active["feature"].unique().sort().to_numpy()
    n_active = np.zeros((len(counted), len(features)), dtype=np.int64)
    n_active[active["row"].to_numpy(), np.searchsorted(features, active["feature"].to_numpy())] = active["text"]
    total = np.zeros(n_active.shape)
    row_of = texts.join(counted, on="problem_id", maintain_order="left")["row"].to_numpy()
    columns = effects.lazy().select("text", "feature", pl.col("effect").cast(pl.Float64))
    for part in columns.collect_batches(maintain_order=True, chunk_size=CHUNK, engine="streaming"):
        places = row_of[part["text"].to_numpy()], np.searchsorted(features, part["feature"].to_numpy())
        np.add.at(total.reshape(-1), np.ravel_multi_index(places, total.shape), part["effect"].to_numpy())
    return Sums(features, total, n_active, counted["len"].to_numpy().astype(np.int64))


def require_weights(contrasts: pl.DataFrame, weights: Int[np.ndarray, "boot problem"]) -> None:
    """EstimateError unless there is one weight for each problem of `contrasts`."""
    n_problems = contrasts["problem_id"].n_unique()
    if weights.shape[1] != n_problems:
        raise EstimateError(
            f"contrasts of {n_problems} problems came with weights for {weights.shape[1]}: make the weights with "
            "resamples(n_problems, ...) for the same problems"
        )


def completeness(texts: pl.DataFrame) -> Completeness:
    """The mean over the texts of a `TEXT_EFFECTS` table, each of which counts by the size of its contrast's change."""
    together = (texts["contrast"] - texts["without"]).to_numpy()
    error, total = float(np.abs(texts["explained"].to_numpy() - together).mean()), float(np.abs(together).mean())
    return Completeness(error, total, error / total if total else float("nan"))


def _require_texts(effects: pl.LazyFrame, texts: pl.DataFrame) -> None:
    """EstimateError where `effects` has a text and problem that are not a row of `texts`."""
    came = effects.select("text", "problem_id").unique().collect(engine="streaming")
    if len(strays := came.join(texts, on=["text", "problem_id"], how="anti").sort("text", "problem_id")):
        text, problem_id = strays.row(0)
        raise EstimateError(f"effects on text {text} of {problem_id!r} came with {len(texts)} other contrasts")


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
