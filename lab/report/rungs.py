"""Rungs: the rows of a ladder in the order a reader climbs them."""

import polars as pl

from lab.errors import EstimateError


def rungs(ladder: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Rows of one measure from the base up, each rung's controls right under it; EstimateError if ends are missing."""
    rows = ladder.filter(pl.col("measure") == measure)
    ends = rows.filter(pl.col("kind") == "end")
    if ends.height != 2:
        raise EstimateError(
            f"ladder: {ends.height} {measure} rows of kind 'end'; want two, the base and the tuned model"
        )
    mains = rows.filter(pl.col("kind") != "control")
    controls = rows.filter(pl.col("kind") == "control")
    lost = controls.filter(~pl.col("control_of").fill_null("").is_in(mains["arm"].to_list()))["arm"].to_list()
    if lost:
        raise EstimateError(f"ladder: controls {lost} belong to no arm; let control_of name an arm of the ladder")
    place = mains.select(_main=pl.col("arm"), _place=pl.col("order"))
    return (
        rows.with_columns(_main=pl.col("control_of").fill_null(pl.col("arm")), _top=pl.col("kind") != "control")
        .join(place, on="_main", how="left", maintain_order="left")
        .sort("_place", "_main", "_top", "order", maintain_order=True)
        .drop("_main", "_top", "_place")
    )
