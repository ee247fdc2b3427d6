"""feature_effects: what each feature adds over many texts, and how complete an attribution is."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from lab.metrics.bootstrap import ratio_intervals
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
