"""Agreement: how far two estimators' shares lie apart on the same trials."""

from itertools import combinations
from math import nan

import polars as pl

from lab.calibration.trial import TRIALS
from lab.tables import Column, Schema

AGREEMENT = Schema(
    "agreement",
    (
        Column("first", pl.String, "estimator and quantity, such as `E2: gain within the base's reach`"),
        Column("second", pl.String, "the other, later in the order of the trials"),
        Column("n_trials", pl.Int32, "trials of any kind on which both gave a share"),
        Column("mean_absolute_difference", pl.Float64, "between the two shares, over those trials; NaN if none"),
        Column("largest_difference", pl.Float64, "largest absolute difference among them; NaN if none"),
    ),
)


def agreement(trials: pl.DataFrame) -> pl.DataFrame:
    """`TRIALS` to `AGREEMENT`: every two shares once, in order of first appearance.

    The kind of organism does not matter here: two estimators can agree or not also where no truth is known.
    """
    given = TRIALS.checked(trials).with_columns(
        name=pl.format("{}: {}", "estimator", "quantity"),
        given=pl.when(pl.col("refusal").is_null()).then(pl.col("value")).otherwise(nan),
    )
    shares = {
        str(name): given.filter(pl.col("name") == name, pl.col("given").is_not_nan()).select("case", "given")
        for name in given["name"].unique(maintain_order=True)
    }
    return AGREEMENT.frame([_pair(first, second, shares) for first, second in combinations(shares, 2)])


def _pair(first: str, second: str, shares: dict[str, pl.DataFrame]) -> dict[str, object]:
    both = shares[first].join(shares[second], on="case", suffix="_second")
    apart = (both["given"] - both["given_second"]).abs().to_list()
    return {
        "first": first,
        "second": second,
        "n_trials": len(apart),
        "mean_absolute_difference": sum(apart) / len(apart) if apart else nan,
        "largest_difference": max(apart, default=nan),
    }
